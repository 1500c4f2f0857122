"""Host cost of one 12-megapixel image: read, focus, paste, write, verify; as a ratio to plain decode + encode.

    OMP_NUM_THREADS=1 python tests/bench/bench_image.py [--rounds 5] [--markdown]

Times are CPU seconds of this process (best of the rounds), so other load on the machine does not count. Peak memory is
the growth of the resident set over the same work in a fresh process, as a multiple of the decoded image.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from refine_ops.config import AlignSettings, ImageLimits, PasteSettings, WriteSettings
from refine_ops.image import focus, paste, read, write
from refine_ops.image.patch import align
from refine_ops.proof import verify
from refine_ops.proof.allowed import Rules

WIDTH, HEIGHT = 4000, 3000
BOX = (1700, 1200, 2100, 1500)
FORMATS = ("jpeg-420", "jpeg-444", "jpeg-progressive", "png", "webp-lossless", "tiff-deflate")
LIMITS = ImageLimits()


def photo() -> np.ndarray:
    """12 megapixels with a photo's entropy: a real one mirrored into tiles (upscaling would make blocks empty)."""
    from sklearn.datasets import load_sample_image

    tile = load_sample_image("china.jpg")
    pad = ((0, HEIGHT - tile.shape[0]), (0, WIDTH - tile.shape[1]), (0, 0))
    return np.ascontiguousarray(np.pad(tile, pad, mode="symmetric"))


def coded(rgb: np.ndarray, kind: str) -> bytes:
    out, image = BytesIO(), Image.fromarray(rgb)
    if kind.startswith("jpeg"):
        image.save(out, "JPEG", quality=90, subsampling=0 if "444" in kind else 2, progressive="progressive" in kind)
    elif kind == "png":
        image.save(out, "PNG", compress_level=4)
    elif kind == "webp-lossless":
        image.save(out, "WEBP", lossless=True, quality=50, method=2, exact=True)
    else:
        image.save(out, "TIFF", compression="tiff_adobe_deflate", tiffinfo={278: 16})
    return out.getvalue()


def plain(data: bytes, kind: str) -> None:
    """What any program pays: decode to RGB, encode with the same settings."""
    with Image.open(BytesIO(data)) as image:
        coded(np.asarray(image.convert("RGB")), kind)


def chain(data: bytes) -> dict[str, float]:
    """CPU seconds per step; the model's place is taken by the view itself, made a little darker."""
    marks = [("start", time.process_time())]

    def mark(step: str) -> None:
        marks.append((step, time.process_time()))

    source = read.decode(data, name="bench", limits=LIMITS)
    mark("read")
    mask = np.zeros((source.height, source.width), np.bool_)
    mask[BOX[1] : BOX[3], BOX[0] : BOX[2]] = True
    margin = focus.margin_in_pixels(source.size, 64, "image_1mp", 8)
    crop = focus.plan_crop(mask, margin_px=margin, grid_px=32, pixels=1 << 20)
    canvas = paste.Canvas.from_source(source)
    view = focus.view(canvas.rgb, crop)
    focus.view_mask(focus.crop_of(mask, crop.crop), crop)
    mark("focus")
    patch = view.astype(np.float32) * np.float32(0.9 / 255)
    mark("(patch)")
    native = focus.unview(patch, crop)
    blend = paste.blend_mask(focus.crop_of(mask, crop.crop), PasteSettings())
    canvas.paste(crop, native, blend)
    mark("paste")
    encoded = write.encode(source, canvas, WriteSettings())
    mark("write")
    verify.verify(source, encoded.data, [(mask, "mask")], Rules())
    mark("verify")
    steps = {name: t - marks[i][1] for i, (name, t) in enumerate(marks[1:])}
    steps.pop("(patch)")
    return steps


def best(work: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def align_seconds(rounds: int) -> float:
    """Estimate and undo on one 1-megapixel crop."""
    rgb = photo()[:1200, :1200]
    mask = np.zeros(rgb.shape[:2], np.bool_)
    mask[500:700, 500:700] = True
    crop = focus.plan_crop(mask, margin_px=300, grid_px=32, pixels=1 << 20)
    truth = np.ascontiguousarray(focus.crop_of(rgb, crop.crop))
    patch = focus.view(rgb, crop).astype(np.float32) / np.float32(255)
    known = align.known_pixels(
        crop, paste.blend_mask(focus.crop_of(mask, crop.crop), PasteSettings()) > 0, np.ones(patch.shape[:2], bool)
    )
    moved = np.roll(patch, 2, axis=1) * np.float32(0.95)

    def work() -> None:
        align.undo(moved, crop, align.estimate(truth, moved, crop, known, AlignSettings()))

    return best(work, rounds)


def peak_ratio(kind: str, data: bytes) -> float:
    """Growth of the peak resident set over the chain, in decoded images (36 MB), in a process of its own."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        here = str(Path(__file__).parent)
        program = f"import sys; sys.path.insert(0, {here!r}); import bench_image as b; "
        program += f"b.report_peak({kind!r}, {file.name!r})"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(done.stdout)


def report_peak(kind: str, file: str) -> None:
    """Warm up on a small image, then print the growth of the high-water mark over the file."""
    chain(coded(photo()[: BOX[3] + 1, : BOX[2] + 1], kind))
    data = Path(file).read_bytes()
    Path("/proc/self/clear_refs").write_text("5")  # the mark falls back to what is resident now
    before = high_water_bytes()
    chain(data)
    print((high_water_bytes() - before) / (WIDTH * HEIGHT * 3))


def high_water_bytes() -> int:
    """VmHWM; getrusage's maximum would be inherited from the parent process."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--formats", nargs="*", default=FORMATS)
    arguments.add_argument("--markdown", action="store_true")
    chosen = arguments.parse_args()
    cv2.setNumThreads(1)
    rgb = photo()
    results = {}
    for kind in chosen.formats:
        data = coded(rgb, kind)
        rounds = [chain(data) for _ in range(chosen.rounds)]
        steps = min(rounds, key=lambda s: sum(s.values()))
        reference = best(lambda d=data, k=kind: plain(d, k), chosen.rounds)
        total = sum(steps.values())
        results[kind] = {
            "mib": len(data) / 2**20, "plain_s": reference, "chain_s": total, "ratio": total / reference,
            "peak_images": peak_ratio(kind, data), **{f"{k}_s": v for k, v in steps.items()},
        }  # fmt: skip
    if not chosen.markdown:
        print(json.dumps({"align_s": align_seconds(chosen.rounds), **results}, indent=1))
        return
    print("| 12 MP, one region | plain decode + encode | whole chain | ratio | peak memory |")
    print("| --- | --- | --- | --- | --- |")
    for kind, r in results.items():
        print(f"| {kind} | {r['plain_s']:.2f} s | {r['chain_s']:.2f} s | {r['ratio']:.2f} | {r['peak_images']:.1f} x |")


if __name__ == "__main__":
    main()
