"""Run folders made by hand from real photos: a region is blurred in the source and restored in the output."""

import json
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms
from skimage import data
from skimage.color import deltaE_ciede2000, rgb2lab

from refine_ops import storage
from refine_ops.config import AccessSettings
from refine_ops.image.paste import blend_mask
from refine_ops.job.ledger import outcomes_table, write_part
from refine_ops.job.planning.plan import make_plan
from refine_ops.job.run_folder import open_run
from refine_ops.job.starts import open_start, start_numbers
from refine_ops.records import Agreement, Alignment, Box, MadeBy, Outcome, RegionOutcome, Ruling, U8Image

SIDE = 320
_PHOTOS = ("astronaut", "coffee", "chelsea", "rocket")
_ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
MARGIN = 64


@dataclass(frozen=True)
class MadeEdit:
    """A source, the true result, and the mask between them. `icc` says which of both files carries a profile."""

    before: U8Image
    after: U8Image
    mask: npt.NDArray[np.bool_]
    sharp: U8Image
    icc: tuple[bool, bool] = (True, True)
    raw: U8Image | None = None

    @property
    def tight(self) -> Box:
        x, y, w, h = cv2.boundingRect(self.mask.view(np.uint8))
        return x, y, x + w, y + h

    @property
    def crop(self) -> Box:
        x0, y0, x1, y1 = self.tight
        return max(0, x0 - MARGIN), max(0, y0 - MARGIN), min(SIDE, x1 + MARGIN), min(SIDE, y1 + MARGIN)

    def _allowed(self) -> npt.NDArray[np.bool_]:
        return cv2.dilate(self.mask.view(np.uint8), np.ones((17, 17), np.uint8)).astype(bool)

    def with_stray_pixel(self, seed: int = 0) -> "MadeEdit":
        """One pixel off by one level in one channel, outside the allowed change."""
        rng = np.random.default_rng(seed)
        ys, xs = np.nonzero(~self._allowed())
        at = rng.integers(len(ys))
        after = self.after.copy()
        value = int(after[ys[at], xs[at], 1])
        after[ys[at], xs[at], 1] = value + (1 if value < 255 else -1)
        return replace(self, after=after)

    def without_icc(self) -> "MadeEdit":
        return replace(self, icc=(True, False))

    def untouched(self) -> "MadeEdit":
        return replace(self, after=self.before.copy())

    def smeared(self, sigma_px: float = 5.0) -> "MadeEdit":
        """A source that was sharp, and a result that is not."""
        soft = cv2.GaussianBlur(self.sharp, (0, 0), sigma_px).astype(np.float32)
        blend = blend_mask(self.mask)[..., None]
        after = np.rint(self.sharp * (1 - blend) + soft * blend).astype(np.uint8)
        return replace(self, before=self.sharp, after=np.where(blend > 0, after, self.sharp))

    def with_seam(self, levels: float) -> "MadeEdit":
        """Pasted with a hard edge, in another tone."""
        patch = np.clip(self.sharp.astype(np.float32) + levels, 0, 255)
        after = np.where(self.mask[..., None], np.rint(patch), self.before).astype(np.uint8)
        return replace(self, after=after)

    def with_raw(
        self, shift_px: float = 0.0, angle: float = 0.0, offset: float = 0.0, soft_px: float = 0.0
    ) -> "MadeEdit":
        """The patch the model made of the crop, kept: shifted, softened and off in tone, before it was aligned."""
        x0, y0, x1, y1 = self.crop
        move = np.float32([[1, 0, shift_px * np.cos(angle)], [0, 1, shift_px * np.sin(angle)]])
        made = cv2.warpAffine(self.sharp, move, (SIDE, SIDE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        if soft_px:
            made = cv2.GaussianBlur(made, (0, 0), soft_px)
        toned = np.clip(made[y0:y1, x0:x1].astype(np.float32) + offset, 0, 255)
        return replace(self, raw=np.rint(toned).astype(np.uint8))

    def with_raw_tone(self, de00: float) -> "MadeEdit":
        """A kept patch whose context is off by a median of `de00` CIEDE2000, as scikit-image measures it."""
        x0, y0, x1, y1 = self.crop
        context = ~self._allowed()[y0:y1, x0:x1]
        truth = rgb2lab(self.before[y0:y1, x0:x1])[context]
        low, high = 0.0, 60.0
        for _ in range(9):
            middle = (low + high) / 2
            made = self.with_raw(offset=middle).raw
            assert made is not None
            found = float(np.median(deltaE_ciede2000(truth, rgb2lab(made)[context])))
            low, high = (middle, high) if found < de00 else (low, middle)
        return self.with_raw(offset=high)


def photo_edit(seed: int, tone: float = 0.0) -> MadeEdit:
    """A photo's region blurred (the source) and restored through the real blend (the result), `tone` levels off."""
    rng = np.random.default_rng(seed)
    photo = getattr(data, _PHOTOS[seed % len(_PHOTOS)])()
    scale = 1.25 * SIDE / min(photo.shape[:2])
    photo = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    y, x = (int(rng.integers(0, n - SIDE + 1)) for n in photo.shape[:2])
    sharp = np.ascontiguousarray(photo[y : y + SIDE, x : x + SIDE])
    mask = np.zeros((SIDE, SIDE), np.uint8)
    centre = tuple(int(v) for v in rng.integers(110, SIDE - 110, 2))
    axes = tuple(int(v) for v in rng.integers(20, 60, 2))
    cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
    marked = mask.astype(bool)
    soft = cv2.GaussianBlur(sharp, (0, 0), float(rng.uniform(2.0, 4.0)))
    fade = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 3)[..., None]
    before = np.rint(sharp * (1 - fade) + soft * fade).astype(np.uint8)
    patch = np.clip(sharp.astype(np.float32) + rng.normal(0, 1.0, sharp.shape) + tone, 0, 255)
    blend = blend_mask(marked)[..., None]
    after = np.rint(before * (1 - blend) + patch * blend).astype(np.uint8)
    return MadeEdit(before, np.where(blend > 0, after, before), marked, sharp)


def png(rgb: U8Image, icc: bool = False) -> bytes:
    out = BytesIO()
    Image.fromarray(rgb).save(out, "PNG", compress_level=1, **({"icc_profile": _ICC} if icc else {}))
    return out.getvalue()


class MadeRun:
    """Collects items, then writes manifest, plan, ledger, outputs and `run.json` as a real run does."""

    def __init__(self, folder: Path, adapter: str = "refine-1", start: float = 1_790_000_000.0) -> None:
        self.folder = folder
        self._config = {"keep_patches": "all", "refine": {"model": {"model": "tiny", "adapters": [adapter]}}}
        self._rows: list[dict[str, Any]] = []
        self._outcomes: list[Outcome] = []
        self._start, self._number = start, 1
        self.promises: dict[str, dict[str, Any]] | None = None

    def add(
        self,
        item_id: str,
        edit: MadeEdit,
        *,
        prompt: str = "restore it",
        category: str = "",
        reference: U8Image | None = None,
        agreement: Agreement | None = None,
        made_by: MadeBy = "model",
        held: str = "",
        **alignment: float,
    ) -> None:
        name = f"{len(self._rows):05d}"
        source, mask = self.folder / "in" / f"{name}.png", self.folder / "in" / f"{name}-mask.png"
        before, after = png(edit.before, edit.icc[0]), png(edit.after, edit.icc[1])
        storage.write(str(source), before)
        storage.write(str(mask), png(np.repeat(edit.mask[..., None] * np.uint8(255), 3, axis=2)))
        storage.write(str(self.folder / "outputs" / f"{self._number:08d}" / f"{name}.png"), after)
        if edit.raw is not None:
            storage.write(str(self.folder / "patches" / f"{self._number:08d}" / f"{name}.png.r0.png"), png(edit.raw))
        region = {"region_id": "r0", "prompt": prompt, "mask": str(mask)}
        if reference is not None:
            region["reference"] = str(self.folder / "in" / f"{name}-reference.png")
            storage.write(region["reference"], png(reference))
        row = {"item_id": item_id, "image": str(source), "output": f"{name}.png", "regions": [region]}
        self._rows.append(row | ({"category": category} if category else {}))
        figures = {"measured": edit.raw is None, "de00_before": 1.0, "dx_px": 0.1} | alignment
        measured = RegionOutcome(
            "r0",
            1,
            edit.tight,
            edit.crop,
            256,
            256,
            1,
            8,
            5.0,
            1,
            "none",
            Alignment(**figures),  # type: ignore[arg-type]
            agreement,
            made_by,
            ruling=Ruling(not held, held),
        )
        self._outcomes.append(
            self._outcome(
                item_id,
                status="done",
                image=str(source),
                output=f"{name}.png",
                object=f"outputs/{self._number:08d}/{name}.png",
                format="png",
                category=category,
                source_sha256=storage.sha256(before),
                output_sha256=storage.sha256(after),
                regions=(measured,),
                timings_s={"read": 0.01, "refine": 0.5},
            )
        )

    def add_held(self, item_id: str, edit: MadeEdit, reason: str, message: str) -> None:
        name = f"{len(self._rows):05d}"
        source = self.folder / "in" / f"{name}.png"
        storage.write(str(source), png(edit.before))
        candidate = f"held/{self._number:08d}/{name}.png"
        storage.write(str(self.folder / candidate), png(edit.after))
        region = {"region_id": "r0", "prompt": "restore it", "box": list(edit.tight)}
        self._rows.append({"item_id": item_id, "image": str(source), "output": f"{name}.png", "regions": [region]})
        region_outcome = RegionOutcome(
            *("r0", 1, edit.tight, edit.crop, 256, 256, 1, 8, 5.0, 1, "none", Alignment()),
            ruling=Ruling(False, reason),
        )
        self._outcomes.append(
            self._outcome(
                item_id,
                status="held",
                reason=reason,
                message=message,
                image=str(source),
                candidate=candidate,
                regions=(region_outcome,),
            )
        )

    def add_dead(self, item_id: str, reason: str, message: str) -> None:
        image = str(self.folder / "in" / "gone.png")
        region = {"region_id": "r0", "prompt": "x", "box": [0, 0, 8, 8]}
        output = f"{len(self._rows):05d}.png"
        self._rows.append({"item_id": item_id, "image": image, "output": output, "regions": [region]})
        self._outcomes.append(
            self._outcome(item_id, status="dead", reason=reason, message=message, image=image, attempts=2)
        )

    def next_night(self) -> None:
        """What is added from here on is finished a day later; `write` again, and the folder has gone on."""
        self._start += 86_400
        self._number += 1

    def write(self) -> str:
        manifest = self.folder / "manifest.jsonl"
        storage.write(str(manifest), "\n".join(json.dumps(row) for row in self._rows).encode())
        parts = {"settings": "test"}
        opened = open_run(str(self.folder), parts, self._config)
        for _ in range(self._number - len(start_numbers(opened.uri))):
            what = {"config": self._config, "parts": parts}
            if self.promises is not None:
                what["promises"] = self.promises
            open_start(opened.uri, what).close("done")
        make_plan(str(manifest), opened.uri, access=AccessSettings())
        write_part(opened.outcomes, outcomes_table(self._outcomes), "test")
        return opened.uri

    def _outcome(self, item_id: str, **fields: Any) -> Outcome:
        row = len(self._outcomes)
        return Outcome(
            item_id=item_id,
            fingerprint=f"f-{item_id}"[:40],
            start=self._number,
            row=row,
            finished_at=self._start + row,
            **fields,
        )
