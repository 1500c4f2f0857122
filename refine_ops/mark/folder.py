"""What there is to mark: the images below a folder, and the references below another."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from refine_ops import storage
from refine_ops.errors import ItemError, JobError
from refine_ops.image.formats.native import IMAGE_SUFFIXES

MAX_IMAGES: Final = 100_000


@dataclass(frozen=True, slots=True)
class FoundImage:
    """`uri` is absolute, `name` relative to the folder it was found in."""

    uri: str
    name: str


@dataclass(frozen=True, slots=True)
class ListedFolder:
    """Images in the order of their names, and how many files were passed over, with the first one's reason."""

    folder: str
    images: tuple[FoundImage, ...]
    passed_over: int = 0
    why: str = ""


def list_images(folder: str, leave_out: Iterable[str] = ()) -> ListedFolder:
    """All images below a local folder, hidden ones and the folders `leave_out` apart; or the one image that is named.

    Passed over are links that lead out of the folder, and names that a manifest cannot hold.

    Raises:
        JobError: the folder is not there, cannot be listed, holds no image or more than `MAX_IMAGES`.
    """
    if storage.is_s3(folder):
        raise JobError(f"{folder}: marking works on local folders; copy the images here, mark them, and name S3 later")
    root = storage.resolve(folder)
    if os.path.isfile(root):
        return ListedFolder(storage.folder_of(root), (FoundImage(root, os.path.basename(root)),))
    if not os.path.isdir(root):
        raise JobError(f"{folder}: no such folder; name the folder that holds the images")
    images, refused = [], []
    for path in _files(root, frozenset(map(storage.resolve, leave_out))):
        try:
            images.append(_found(path, root))
        except ItemError as e:
            refused.append(str(e))
        if len(images) > MAX_IMAGES:
            raise JobError(f"{folder}: over {MAX_IMAGES:,} images; mark them folder by folder")
    if not images:
        also = f" ({len(refused)} passed over: {refused[0]})" if refused else ""
        raise JobError(f"{folder}: no image below it{also}; looked for {', '.join(IMAGE_SUFFIXES)}")
    return ListedFolder(root, tuple(images), len(refused), refused[0] if refused else "")


def _files(root: str, leave_out: frozenset[str]) -> Iterator[str]:
    def refuse(e: OSError) -> None:
        raise JobError(f"cannot list {e.filename}: {e.strerror or e}; check permissions and the disk") from e

    for folder, folders, names in os.walk(root, onerror=refuse):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and os.path.join(folder, name) not in leave_out
        )
        for name in sorted(names):
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                yield os.path.join(folder, name)


def _found(path: str, root: str) -> FoundImage:
    uri = storage.resolve(path)
    if not storage.inside(uri, root):
        raise ItemError("uri.forbidden", f"{path} is a link that leads out of the folder")
    return FoundImage(uri, os.path.relpath(uri, root))
