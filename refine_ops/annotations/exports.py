"""A manifest, or what a run held of it, as a file that another tool shows and a person corrects."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from refine_ops import storage
from refine_ops.annotations.export_record import ExportedImage, ExportedRegion
from refine_ops.annotations.formats.label_studio import labeling_config
from refine_ops.annotations.formats.table import FORMATS
from refine_ops.annotations.image_rows import SHOWN
from refine_ops.annotations.images import ImageRoot, read_header
from refine_ops.annotations.shapes import Rectangle, Remark
from refine_ops.config import AccessSettings, ImageLimits
from refine_ops.errors import ItemError, JobError
from refine_ops.image.region import region_mask
from refine_ops.job.ledger import read_ledger
from refine_ops.job.planning.manifest import read_items
from refine_ops.job.planning.rows import RowProblem
from refine_ops.job.run_folder import reopen_run
from refine_ops.progress import OnProgress, no_progress
from refine_ops.records import Item, Mask, Region

_NO_LABEL: Final = "region"
_LOCAL_FILES: Final = "/data/local-files/?d="

Key = tuple[str, str]
"""Item id and region id."""
Held = dict[Key, float | None]
"""What was not accepted, with the judge's score, if it has one."""
Detected = dict[Key, tuple[str, float]]
"""What was detected: its class, and how surely."""
_NUMBERED: Final = re.compile(r"(.*[^\W\d].*?)(-\d+)?")


@dataclass(slots=True)
class Exported:
    """What was written; `config` is where the labelling interface lies, if the format has one."""

    images: int = 0
    regions: int = 0
    config: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    remarks: list[Remark] = field(default_factory=list)

    def note(self, remark: Remark) -> None:
        self.counts[remark.reason] += 1
        if len(self.remarks) < SHOWN:
            self.remarks.append(remark)


def export_annotations(
    name: str,
    manifest: str,
    out: str,
    *,
    images: str | None = None,
    prompt: str = "Refine the {label}",
    held: str | None = None,
    detections: str | None = None,
    access: AccessSettings | None = None,
    limits: ImageLimits | None = None,
    on_progress: OnProgress = no_progress,
) -> Exported:
    """Write every region of a manifest as a pre-annotation of the format `name`.

    Args:
        images: The folder or prefix that the tool serves images from; they are named relative to it. Default: the
            manifest's own.
        prompt: Of a region without a name, whose prompt has this form, `{label}` becomes the label.
        held: A run folder: only regions whose latest outcome was not accepted, with the judge's score.
        detections: The `detections.parquet` beside a manifest that `refine-ops detect` made: classes and scores.

    Raises:
        JobError: a format that is not written, an unreadable manifest or run, or nothing to write.
    """
    form = FORMATS.get(name)
    if form is None or form.write is None:
        written = [known for known, one in FORMATS.items() if one.write]
        raise JobError(f"annotations are not exported as {name!r}; there are {', '.join(written)}")
    found, labels = Exported(), dict[str, None]()
    manifest = storage.resolve(manifest)
    root = ImageRoot(images or storage.folder_of(manifest))
    chosen = held_regions(held) if held else None
    known = detected_regions(detections) if detections else {}
    limits = limits or ImageLimits()

    def written_images() -> Iterator[ExportedImage]:
        for done, item in enumerate(read_items(manifest, access), 1):
            on_progress(done)
            if isinstance(item, RowProblem):
                found.note(Remark(f"row {item.row}", item.reason, item.message))
                continue
            try:
                image = _exported(item, root, chosen, known, limits, prompt, name, found)
            except ItemError as e:
                found.note(Remark.of(item.item_id, e))
                continue
            if image.regions:
                found.images += 1
                found.regions += len(image.regions)
                labels.update(dict.fromkeys(region.label for region in image.regions))
                yield image

    text = "".join(form.write(written_images()))
    if not found.images:
        why = "\n".join(f"  {r.place}: {r.message}" for r in found.remarks[:5]) or f"  {held or manifest} has none"
        raise JobError(f"no region to export, {out} was not written:\n{why}")
    out = storage.resolve(out)
    storage.write(out, text.encode())
    if name == "label-studio":
        found.config = f"{out.removesuffix('.json')}.config.xml"
        storage.write(found.config, labeling_config(labels).encode())
    return found


def held_regions(run: str) -> Held:
    """The regions of a run that were refined and not accepted, by the ledger's latest outcomes.

    Raises:
        JobError: there is no such run.
    """
    folder, _ = reopen_run(run)
    ledger = read_ledger(folder.outcomes, ["regions"])
    rows = zip(ledger["item_id"].to_pylist(), ledger["regions"].to_pylist(), strict=True)
    return {
        (item_id, region["region_id"]): region["ruling"]["score"]
        for item_id, regions in rows
        for region in regions or ()
        if region["ruling"] and not region["ruling"]["accepted"]
    }


def detected_regions(uri: str) -> Detected:
    """What `refine-ops detect` knows of the regions it made; of several detections of one the surest.

    Raises:
        JobError: it is no such file.
    """
    try:
        data = storage.read(storage.resolve(uri))
        table = pq.read_table(pa.BufferReader(data), columns=["item_id", "region_id", "class", "score"])
    except (ItemError, pa.ArrowException, KeyError) as e:
        raise JobError(f"detections {uri}: expected the detections.parquet of `refine-ops detect` ({e})") from e
    found: Detected = {}
    for row in table.filter(pc.is_valid(table["region_id"])).sort_by("score").to_pylist():
        found[row["item_id"], row["region_id"]] = row["class"], row["score"]
    return found


def _exported(
    item: Item,
    root: ImageRoot,
    chosen: Held | None,
    known: Detected,
    limits: ImageLimits,
    prompt: str,
    name: str,
    found: Exported,
) -> ExportedImage:
    wanted = [r for r in item.regions if chosen is None or (item.item_id, r.region_id) in chosen]
    if not wanted:
        return ExportedImage("", (0, 0), item.item_id, item.output, item.category, ())
    size = read_header(item.image, limits).size
    regions = []
    for region in wanted:
        key = item.item_id, region.region_id
        label, score = known.get(key, (_label(region, prompt), None))
        if chosen is not None:
            score = chosen[key]
        try:
            regions.append(_region(region, size, limits, label, score))
        except ItemError as e:
            found.note(Remark.of(f"{item.item_id} / {region.region_id}", e))
    return ExportedImage(_named(item.image, root, name), size, item.item_id, item.output, item.category, tuple(regions))


def _named(uri: str, root: ImageRoot, name: str) -> str:
    """What the other tool calls the image: its path below the root; Label Studio wants a URL it can serve."""
    relative = root.relative(uri) if uri.startswith(f"{root.uri}/") else ""
    if name != "label-studio":
        return relative or uri
    return uri if storage.is_s3(uri) else f"{_LOCAL_FILES}{quote(relative or uri)}"


def _region(
    region: Region, size: tuple[int, int], limits: ImageLimits, label: str, score: float | None
) -> ExportedRegion:
    kept: dict[str, Any] = {"region_id": region.region_id, "prompt": region.prompt}
    kept |= {k: v for k, v in (("seed", region.seed), ("paste", region.paste)) if v is not None}
    if region.all_references:
        kept["references"] = list(region.all_references)
    mask_bytes = storage.read(region.mask, limits.max_bytes) if region.mask else None
    if region.box is not None:
        if region.box[2] > size[0] or region.box[3] > size[1]:
            raise ItemError("box.outside", f"box {region.box} leaves the {size[0]} x {size[1]} image; clip it")
        shape: Rectangle | Mask = Rectangle(*region.box)
    else:
        shape = region_mask(region, size, mask_bytes, limits)
    return ExportedRegion(region.region_id, shape, label, region.prompt, kept, score)


def _label(region: Region, template: str) -> str:
    """A region's name without its number, as imports and detections name regions; of one without a name what stands in
    its prompt where the template has `{label}`; a word for all others."""
    if named := _NUMBERED.fullmatch(region.region_id):
        return named[1]
    before, given, after = template.partition("{label}")
    prompt = region.prompt
    fits = given and prompt.startswith(before) and prompt.endswith(after) and len(prompt) > len(before) + len(after)
    return prompt[len(before) : len(prompt) - len(after)] if fits else _NO_LABEL
