"""Bytes in and out of local folders and S3, by URI. Writes are atomic; nothing else in the project touches files.

A *URI* is `s3://bucket/key` or an absolute local path; `file://` is accepted and normalised. Local writes go to a
temporary name in the same folder, are flushed to disk, and are renamed; S3 writes are one PUT with a SHA-256 checksum.
"""

import contextlib
import errno
import hashlib
import os
import posixpath
import re
import stat
import unicodedata
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote

from refine_ops import s3
from refine_ops.config import AccessSettings
from refine_ops.errors import ItemError, JobError
from refine_ops.errors import Missing as Missing

_TEMPORARY = ".tmp-"
_ASKED_AT_ONCE = 16
_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}")


def is_s3(uri: str) -> bool:
    return uri.startswith("s3://")


def resolve(uri: str, base: str = "") -> str:
    """Normalise `uri` to an S3 URI or an absolute local path; relative ones resolve against the folder `base`.

    Raises:
        ItemError: `uri.scheme` for every scheme but `file` and `s3`; `uri.invalid` for an empty path, a file on another
            host, a bucket that cannot be one, and for characters that no file name has in UTF-8 or that would forge
            lines in logs.
    """
    scheme, separator, rest = uri.partition("://")
    scheme = scheme.lower()
    if separator and scheme == "s3":
        uri = f"s3://{rest}"
    elif separator and scheme == "file":
        host, _, path = unquote(rest).partition("/")
        if host not in ("", "localhost"):
            raise ItemError("uri.invalid", f"{uri!r} names the host {host!r}; write file:///path or a local path")
        uri = f"/{path}"
    elif separator:
        raise ItemError("uri.scheme", f"{uri!r}: scheme {scheme!r} is not read; use a local path, file:// or s3://")
    if not uri or (not uri.isprintable() and any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in uri)):
        raise ItemError("uri.invalid", f"{uri!r} is not a path; give a local path, file:// or s3://bucket/key")
    if is_s3(uri):
        bucket, key = _split_s3(uri)
        return f"s3://{bucket}/{key}"
    return join(base, uri) if base and not os.path.isabs(uri) else os.path.abspath(uri)


def join(base: str, *parts: str) -> str:
    """`base` with relative `parts` appended; `..` in parts is normalised, not refused (see `inside`)."""
    if is_s3(base):
        bucket, key = _split_s3(base)
        return f"s3://{bucket}/{_without_dots(posixpath.join(key, *parts))}"
    return os.path.abspath(os.path.join(base, *parts))


def _without_dots(key: str) -> str:
    """`.` and `..` resolved; empty parts stay, as `a//b`, `/b` and `b` are three different keys."""
    kept: list[str] = []
    for part in key.split("/"):
        if part == "..":
            del kept[-1:]
        elif part != ".":
            kept.append(part)
    return "/".join(kept)


def folder_of(uri: str) -> str:
    """The folder that `join` finds the file's neighbours in; an S3 prefix that ends in '//' keeps its last slash."""
    if not is_s3(uri):
        return os.path.dirname(os.path.abspath(uri))
    folder = uri.rsplit("/", 1)[0]
    return f"{folder}/" if folder.endswith("/") else folder


def relative(uri: str, folder: str) -> str:
    """A resolved URI as a file in `folder` (`folder_of` it) names it: relative where it lies below, so that the two may
    move together."""
    return uri.removeprefix(f"{folder}/")


def spelled_as_stored(uri: str) -> str:
    """`uri`, or the local file that is there under the same letters, composed (NFC) or decomposed (NFD).

    macOS hands out decomposed names, most other tools write composed ones; to Linux they are two names.
    """
    if uri.isascii() or is_s3(uri) or os.path.exists(uri):
        return uri
    found = "/"
    for part in uri.split("/")[1:]:
        forms = (part, unicodedata.normalize("NFC", part), unicodedata.normalize("NFD", part))
        there = next((form for form in forms if os.path.lexists(os.path.join(found, form))), None)
        if there is None:
            return uri
        found = os.path.join(found, there)
    return found


def missing(uri: str) -> Missing:
    """The error for a URI that names nothing, with what was probably meant."""
    if "\\" in uri or re.search(r"(^|/)[A-Za-z]:", uri):
        return Missing(
            uri, "this looks like a Windows path: write '/' for '\\', and the folder as this machine sees it"
        )
    if "/~/" in uri:
        return Missing(uri, "'~' is not expanded here: write the whole path")
    forms = () if uri.isascii() else {unicodedata.normalize(form, uri) for form in ("NFC", "NFD")} - {uri}
    if any(exists(form) for form in forms):
        return Missing(uri, "one with the same letters is there, composed otherwise (NFC, NFD): copy its name exactly")
    return Missing(uri)


def inside(uri: str, folder: str) -> bool:
    """Whether `uri` lies in `folder` once symbolic links are followed."""
    if is_s3(uri) or is_s3(folder):
        return uri.startswith(folder if folder.endswith("/") else f"{folder}/")
    real, root = os.path.realpath(uri), os.path.realpath(folder)
    return os.path.commonpath([real, root]) == root and real != root


def check_access(uri: str, access: AccessSettings) -> None:
    """Refuse what the operator did not allow manifests to read.

    Raises:
        ItemError: `uri.forbidden` when roots or buckets are set and the URI lies in none of them.
    """
    if is_s3(uri):
        bucket = _split_s3(uri)[0]
        if access.buckets and bucket not in access.buckets:
            raise ItemError("uri.forbidden", f"{uri}: bucket {bucket!r} is not in access.buckets {access.buckets}")
    elif access.roots and not any(inside(uri, os.path.abspath(root)) for root in access.roots):
        raise ItemError("uri.forbidden", f"{uri}: outside access.roots {access.roots} (symbolic links are followed)")


def read(uri: str, max_bytes: int | None = None) -> bytes:
    """The whole object.

    Raises:
        Missing: it does not exist.
        ItemError: `file.too_large`, `file.not_a_file`, `file.unreadable`.
    """
    return read_identified(uri, max_bytes)[0]


def read_identified(uri: str, max_bytes: int | None = None) -> tuple[bytes, str]:
    """The whole object and its `identity`, both of the same moment; raises as `read` does."""
    if is_s3(uri):
        try:
            return s3.get(*_split_s3(uri), lambda size: _check_size(uri, size, max_bytes))
        except Missing as e:
            raise missing(uri) from e
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for a writer for ever.
        with open(os.open(uri, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as f:
            status = os.fstat(f.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ItemError("file.not_a_file", f"{uri}: is a device or pipe, expected a file")
            _check_size(uri, status.st_size, max_bytes)
            data = f.read() if max_bytes is None else f.read(max_bytes + 1)
    except (FileNotFoundError, NotADirectoryError) as e:
        raise missing(uri) from e
    except IsADirectoryError as e:
        raise ItemError("file.not_a_file", f"{uri}: is a folder, expected a file") from e
    except OSError as e:
        raise ItemError("file.unreadable", f"{uri}: {e.strerror or e}; check permissions and the disk") from e
    _check_size(uri, len(data), max_bytes)
    return data, f"{status.st_size}:{status.st_mtime_ns}"


def write(uri: str, data: bytes, *, only_if_absent: bool = False) -> None:
    """Publish `data` at `uri` atomically.

    With `only_if_absent`, an existing object with equal SHA-256 is success, one with other bytes is an error: nothing
    is ever published twice with different bytes.

    Raises:
        ItemError: `output.conflict` -- another object is already there.
        JobError: no space, no permission, or the store refuses writes.
    """
    if is_s3(uri):
        if not s3.put(*_split_s3(uri), data, only_if_absent=only_if_absent):
            _accept_equal(uri, data)
        return
    if only_if_absent and os.path.exists(uri):
        _accept_equal(uri, data)
        return
    path = Path(uri)
    temporary = path.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        if only_if_absent and _linked(temporary, path):
            temporary.unlink()
        else:
            os.replace(temporary, path)
    except OSError as e:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if not (only_if_absent and isinstance(e, FileExistsError) and path.is_file()):
            raise _write_error(uri, e) from e
        _accept_equal(uri, data)  # another writer was quicker


def _linked(temporary: Path, path: Path) -> bool:
    """Give the file its name only if nobody has it; False where the file system knows no hard links.

    Raises:
        FileExistsError: somebody has it.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError as e:
        if e.errno in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            return False
        raise
    return True


def exists(uri: str) -> bool:
    if not is_s3(uri):
        return os.path.exists(uri)
    try:
        s3.head(*_split_s3(uri))
    except Missing:
        return False
    return True


def list_files(folder: str, suffix: str = "") -> Iterator[str]:
    """URIs of all files below `folder`, sorted, temporary ones left out; an absent folder is empty.

    Raises:
        JobError: the folder, or one below it, is there and cannot be listed.
    """
    if is_s3(folder):
        bucket, prefix = _split_s3(folder)
        keys = s3.list_keys(bucket, prefix if not prefix or prefix.endswith("/") else f"{prefix}/")
        yield from (f"s3://{bucket}/{key}" for key in keys if key.endswith(suffix))
        return
    found = (Path(root) / name for root, _, names in os.walk(folder, onerror=_refuse_unlistable) for name in names)
    yield from sorted(str(p) for p in found if p.name.endswith(suffix) and not p.name.startswith(_TEMPORARY))


def _refuse_unlistable(e: OSError) -> None:
    """`os.walk` would go on as if a folder that cannot be listed were empty."""
    if not isinstance(e, FileNotFoundError | NotADirectoryError):
        raise JobError(f"cannot list {e.filename}: {e.strerror or e}; check permissions and the disk") from e


def list_written(folder: str) -> Iterator[tuple[str, float]]:
    """As `list_files`, with when each file was written, in seconds since 1970 by the store's clock."""
    if is_s3(folder):
        bucket, prefix = _split_s3(folder)
        found = s3.list_objects(bucket, prefix.rstrip("/") + "/" if prefix else "")
        yield from ((f"s3://{bucket}/{key}", at) for key, at in found)
        return
    for uri in list_files(folder):
        with contextlib.suppress(FileNotFoundError):
            yield uri, os.stat(uri).st_mtime


def delete_many(uris: list[str]) -> None:
    """Remove many objects; absent ones are fine."""
    by_bucket: dict[str, list[str]] = {}
    for uri in uris:
        if is_s3(uri):
            bucket, key = _split_s3(uri)
            by_bucket.setdefault(bucket, []).append(key)
        else:
            delete(uri)
    for bucket, keys in by_bucket.items():
        s3.delete_many(bucket, keys)


def delete(uri: str) -> None:
    """Remove one object; absent is fine."""
    if is_s3(uri):
        s3.delete(*_split_s3(uri))
    else:
        Path(uri).unlink(missing_ok=True)


def identity(uri: str) -> str:
    """What changes when the content does, without reading it: S3 ETag and size, or local size and mtime.

    Raises:
        Missing: it does not exist.
    """
    if is_s3(uri):
        return s3.head(*_split_s3(uri))
    try:
        status = os.stat(uri)
    except OSError as e:
        raise Missing(uri) from e
    return f"{status.st_size}:{status.st_mtime_ns}"


def identities(uris: Sequence[str]) -> dict[str, str]:
    """`identity` of many, each looked up once: on S3 a page of a listing tells a thousand, where they lie close enough.

    One that has none counts as the reason why ("file.missing").
    """
    distinct = list(dict.fromkeys(uris))
    found: dict[str, str] = {}
    keys_of: dict[str, list[str]] = {}
    for uri in distinct:
        if is_s3(uri):
            with contextlib.suppress(ItemError):  # no bucket in it: told below
                bucket, key = _split_s3(uri)
                keys_of.setdefault(bucket, []).append(key)
    for bucket, keys in keys_of.items():
        for key, said in s3.list_identities(bucket, keys).items():
            uri = f"s3://{bucket}/{key}"
            found[uri] = missing(uri).reason if said is None else said
    rest = [uri for uri in distinct if uri not in found]
    if len(rest) < _ASKED_AT_ONCE:
        return found | {uri: _identity_or_reason(uri) for uri in rest}
    with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
        return found | dict(zip(rest, pool.map(_identity_or_reason, rest), strict=True))


def _identity_or_reason(uri: str) -> str:
    try:
        return identity(uri)
    except ItemError as e:
        return e.reason


def probe_writable(folder: str) -> bool:
    """Write and remove a small object, and say whether conditional writes are honoured (local: always True).

    Raises:
        JobError: the folder cannot be written.
    """
    uri = join(folder, f".probe-{uuid.uuid4().hex}")
    if not is_s3(folder) and os.path.exists(folder) and not os.path.isdir(folder):
        raise JobError(f"{folder} is a file, expected a folder; choose another name")
    write(uri, b"first")
    try:
        if not is_s3(folder):
            return True
        try:
            write(uri, b"second", only_if_absent=True)
        except ItemError:
            return True
        return False
    finally:
        delete(uri)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _check_size(uri: str, size: int, max_bytes: int | None) -> None:
    if max_bytes is not None and size > max_bytes:
        raise ItemError("file.too_large", f"{uri}: {size} bytes, the limit is {max_bytes} (limits.max_bytes)")


def _accept_equal(uri: str, data: bytes) -> None:
    if sha256(read(uri)) != sha256(data):
        raise ItemError("output.conflict", f"{uri}: already holds other bytes; use a new run folder or output name")


def _write_error(uri: str, e: OSError) -> JobError:
    remedy = {
        errno.ENOSPC: "free some space or choose another folder, then run the same command again",
        errno.EDQUOT: "the quota is used up; free some space, then run the same command again",
        errno.EROFS: "the file system is read-only; choose another folder",
        errno.EACCES: "not writable for this user; fix its permissions or choose another folder",
    }.get(e.errno or 0, "check the folder and run the same command again")
    return JobError(f"cannot write {uri}: {e.strerror or e}; {remedy}")


def _split_s3(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")  # a key may begin with '/': s3://shop//a.png
    if not _BUCKET.fullmatch(bucket):
        raise ItemError("uri.invalid", f"{uri!r} names no bucket; expected s3://bucket/key")
    return bucket, key
