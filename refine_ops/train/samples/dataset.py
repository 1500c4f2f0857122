"""Samples of a dataset, and the focus crops made of them: the same geometry and conditioning as at inference."""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import cv2
import numpy as np
import pyarrow.parquet as pq

from refine_ops import storage
from refine_ops.config import ImageLimits
from refine_ops.data.schema import SAMPLES, VERSION
from refine_ops.errors import ItemError, JobError
from refine_ops.image import conditioning, focus, place, read
from refine_ops.image.mask import decode_mask
from refine_ops.image.reference import decode_reference
from refine_ops.model.presets import Preset
from refine_ops.records import Conditioning, Mask, U8Image
from refine_ops.train.config import CropSettings
from refine_ops.train.samples.draws import derive_seed

_COLUMNS: Final = ["sample_id", "setting", "split", "input", "target", "mask", "reference", "prompt", "families"]


@dataclass(frozen=True, slots=True)
class TrainingSample:
    """One row of the dataset; files are absolute URIs, `reference` is None for reference-free samples."""

    sample_id: str
    split: str
    input: str
    target: str
    mask: str
    reference: str | None
    prompt: str
    families: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class TrainingCrop:
    """A focus crop ready for the encoders. `target` is the clean view, `uint8 (h, w, 3)`, like `conditioning.image`."""

    conditioning: Conditioning
    target: U8Image


def read_samples(dataset: str, exclude: tuple[str, ...] = ()) -> list[TrainingSample]:
    """All samples, sorted by id, without those of an excluded family.

    Raises:
        JobError: no parts, another schema version, or an excluded family that no sample has (a typing error).
    """
    samples, families = [], set()
    for part in _parts(dataset):
        for row in _rows(part):
            families.update(row["families"])
            if not set(exclude) & set(row["families"]):
                samples.append(_sample(row, dataset))
    unknown = set(exclude) - families
    if unknown:
        raise JobError(f"{dataset}: no sample is of the excluded families {sorted(unknown)}; it has {sorted(families)}")
    return sorted(samples, key=lambda s: s.sample_id)


def dataset_digest(dataset: str) -> str:
    """Of all rows of a set, the hashes of its sources among them, wherever it lies."""
    parts = [storage.sha256(storage.read(part)) for part in _parts(dataset)]
    return storage.sha256("\n".join(parts).encode())


def as_sample(values: Mapping[str, Any]) -> TrainingSample:
    """Inverse of `asdict`, through JSON."""
    return TrainingSample(**{**values, "families": tuple(values["families"])})


def read_files(sample: TrainingSample, limits: ImageLimits) -> dict[str, bytes]:
    """Bytes by URI of the sample's files."""
    uris = [sample.input, sample.target, sample.mask] + ([sample.reference] if sample.reference else [])
    return {uri: storage.read(uri, limits.max_bytes) for uri in uris}


def crop_key(
    sample: TrainingSample, files: Mapping[str, bytes], settings: CropSettings, variant: int, seed: int
) -> str:
    """What the crop's pixels depend on, as a digest: contents and geometry, not names or places."""
    contents = [storage.sha256(files[uri]) for uri in (sample.input, sample.target, sample.mask)]
    contents.append(storage.sha256(files[sample.reference]) if sample.reference else "")
    geometry = settings.model_dump(mode="json", exclude={"variants", "reference_dropout"})
    jitter = derive_seed(seed, sample.sample_id, variant) if settings.variants > 1 else 0
    text = json.dumps([contents, sample.prompt, geometry, jitter])
    return hashlib.sha256(text.encode()).hexdigest()


def make_crop(
    sample: TrainingSample,
    files: Mapping[str, bytes],
    settings: CropSettings,
    preset: Preset,
    limits: ImageLimits,
    *,
    variant: int = 0,
    seed: int = 0,
) -> TrainingCrop:
    """Crop input, target and mask alike (Eq. 3-5) and put together what the model is given (Eq. 6).

    With several variants each has its own jitter, drawn from `seed`, the sample's id and the variant.

    Raises:
        ItemError: a file is not what it should be, or input and target differ in size (`sample.size`).
    """
    source = read.decode(files[sample.input], name=sample.input, limits=limits)
    target = read.decode(files[sample.target], name=sample.target, limits=limits).rgb
    if target.shape != source.rgb.shape:
        raise ItemError("sample.size", f"{sample.sample_id}: input {source.rgb.shape} and target {target.shape} differ")
    mask = decode_mask(files[sample.mask], name=sample.mask, size=source.size, limits=limits)
    looks = settings.geometry
    if settings.variants > 1:
        rng = np.random.default_rng(derive_seed(seed, sample.sample_id, variant))
        margin = round(looks.margin * (1 + settings.margin_jitter * rng.uniform(-1, 1)))
        looks = looks.model_copy(update={"margin": margin})
        mask = _dilated(mask, int(rng.integers(0, settings.region_jitter_px + 1)))
    references = []
    if sample.reference is not None:
        shown = decode_reference(files[sample.reference], name=sample.reference, limits=limits)
        references.append((sample.reference, shown))
    found = place.find(
        place.Marking.of(source, mask, settings.paste_policy, settings.paste),
        looks if settings.focus else looks.switched_off(),
        settings.paste,
        grid_px=preset.grid_px,
        focus_pixels=preset.focus_pixels,
        tile_zoom=None,  # one crop per sample: to the model a tile is a crop like any other
    )
    given = conditioning.whole(
        source.rgb, found, prompt=sample.prompt, seed=0, references=references, policy=preset.reference
    )
    return TrainingCrop(given, focus.view(target, found.crop))


def without_reference(sample: TrainingSample) -> TrainingSample:
    """The sample as reference dropout shows it."""
    return replace(sample, reference=None)


def _dilated(mask: Mask, radius_px: int) -> Mask:
    kernel = np.ones((2 * radius_px + 1, 2 * radius_px + 1), np.uint8)
    return np.asarray(cv2.dilate(mask.astype(np.uint8), kernel) > 0)


def _parts(dataset: str) -> list[str]:
    parts = list(storage.list_files(storage.join(dataset, "samples"), ".parquet"))
    if not parts:
        raise JobError(f"{dataset}: no samples/*.parquet; build the dataset first (refine-ops build-dataset)")
    return parts


def _rows(part: str) -> list[dict[str, Any]]:
    table = pq.read_table(io.BytesIO(storage.read(part)))
    found = (table.schema.metadata or {}).get(b"refine_ops.dataset.version", b"?").decode()
    if found != str(VERSION):
        raise JobError(f"{part}: dataset version {found}, this release reads {VERSION}; build the dataset again")
    missing = set(SAMPLES.names) - set(table.column_names)
    if missing:
        raise JobError(f"{part}: columns {sorted(missing)} are missing; build the dataset again")
    return list(table.select(_COLUMNS).to_pylist())


def _sample(row: dict[str, Any], dataset: str) -> TrainingSample:
    reference = row["reference"] if row["setting"] == "reference" else None
    if (row["setting"] == "reference") != (row["reference"] is not None):
        raise JobError(
            f"{dataset}: sample {row['sample_id']} is {row['setting']!r} with reference {row['reference']!r}"
        )
    return TrainingSample(
        sample_id=row["sample_id"],
        split=row["split"],
        input=storage.join(dataset, row["input"]),
        target=storage.join(dataset, row["target"]),
        mask=storage.join(dataset, row["mask"]),
        reference=None if reference is None else storage.join(dataset, reference),
        prompt=row["prompt"],
        families=tuple(row["families"]),
    )
