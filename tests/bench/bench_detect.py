"""Discovery measured: damaged text on rendered signs, logos on composites, images per second of each detector.

python -m tests.bench.bench_detect text [COUNT]      recall of damaged signs and false alarms, held-out fonts
python -m tests.bench.bench_detect like [COUNT [FIRST]]   recall by size and blur, false alarms, held-out logos
python -m tests.bench.bench_detect speed [COUNT]     images/s on one core against bare decoding, and peak memory
"""

import io
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from PIL import Image

from refine_ops.config import ImageLimits
from refine_ops.detect.finding.config import FindLike
from refine_ops.detect.finding.found import Finder, Found
from refine_ops.detect.finding.like import LikeFinder
from refine_ops.detect.finding.like_search import Sought, points_of
from refine_ops.detect.finding.text import TextFinder
from refine_ops.detect.regions.config import DetectRegionsConfig
from refine_ops.detect.regions.rules import RuleBook
from refine_ops.image.read import decode_rgb
from refine_ops.image.registration.frames import project
from refine_ops.records import Box, U8Image
from tests.bench import logos, signs


def interval(hits: int, count: int) -> str:
    """A share with its 95 % interval (Wilson)."""
    if not count:
        return "-"
    share, z = hits / count, 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return f"{hits}/{count} = {share:.2f} [{max(0, middle - half):.2f}, {min(1, middle + half):.2f}]"


def on(box: Sequence[int], sign: Box) -> bool:
    """Whether most of a region lies on the sign."""
    common = [min(box[i + 2], sign[i + 2]) - max(box[i], sign[i]) for i in (0, 1)]
    return max(0, common[0]) * max(0, common[1]) > 0.5 * (box[2] - box[0]) * (box[3] - box[1])


def text(count: int) -> None:
    """Found at all, and taken with `only: damaged`; elsewhere: regions that lie on no sign."""
    finder = TextFinder(DetectRegionsConfig(source="x").detectors[0].scales)
    books = {only: RuleBook(DetectRegionsConfig(source="x", only=only), [finder]) for only in ("all", "damaged")}
    taken: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    elsewhere = 0
    for number in range(count):
        sign = signs.sign(number, "heldout")
        found = finder.find(sign.image)
        for only, book in books.items():
            regions, _ = book.weigh(sign.image, found)
            hit = any(on(region["box"], sign.box) for region in regions)
            elsewhere += only == "damaged" and sum(not on(region["box"], sign.box) for region in regions)
            for kind in (sign.damage or "clean", "any damage" if sign.damage else ""):
                taken[kind, only][0] += hit
                taken[kind, only][1] += 1
    for kind in ("clean", "any damage", *signs.KINDS):
        print(f"{kind:18}", *(f"{only}: {interval(*taken[kind, only]):32}" for only in books))
    print(f"regions of damaged text elsewhere in the photos: {elsewhere} in {count}")


def sought(name: str, logo: U8Image) -> Sought:
    alpha = logo[..., 3:].astype(np.float32) / 255
    pixels = np.rint(logo[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    valid = None if (logo[..., 3] > 127).all() else logo[..., 3] > 127
    return Sought(name, name, pixels, valid, points_of(pixels, valid))


def like(count: int, first: int = 0) -> None:
    """Twenty composites of a brand; a logo that is found where it is not is a false alarm."""
    recall: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    false, asked = 0, 0
    for number in range(first, first + count):
        if number % 20 == 0 or number == first:
            brand = logos.brand(number // 20, "heldout")
            references = [sought(str(i), logo) for i, logo in enumerate(brand)]
            finder = LikeFinder(FindLike(references="x"), references)
        image, printed = logos.composite(number, "heldout", brand)
        found = finder.find(image)
        asked += logos.BRAND
        false += sum(not any(_is(one, p, references) for p in printed) for one in found)
        for p in printed:
            size = "under 64 px" if p.scale < 0.5 else "64 to 128 px" if p.scale < 1 else "128 to 256 px"
            blur = "sharp" if not p.blur_px else "blur to 1.9 px" if p.blur_px < 1.9 else "blur to 3 px"
            hits = [one for one in found if _is(one, p, references)]
            for group in ("all", size, blur):
                recall[group][0] += bool(hits)
                recall[group][1] += 1
            for one in hits:
                recall[f"damaged: {blur}"][0] += (one.softness or 0.0) >= 0.5
                recall[f"damaged: {blur}"][1] += 1
        if (number + 1) % 10 == 0 or number + 1 == first + count:  # it takes a while: what is known so far
            print(f"\n{number + 1 - first} composites from {first} on", flush=True)
            for group in sorted(recall):
                print(f"{group:25}{interval(*recall[group])}")
            print(f"false alarms, of {asked} references sought: {interval(false, asked)}", flush=True)


def _is(found: Found, printed: logos.Printed, references: list[Sought]) -> bool:
    """Within 15 % of its size, corner by corner."""
    if found.name != str(printed.logo) or found.pose is None:
        return False
    off = np.abs(project(found.pose, references[printed.logo].corners) - printed.quad).mean()
    return bool(off < 0.15 * np.ptp(printed.quad, axis=0).max())


def speed(count: int) -> None:
    """JPEGs of 1 MP, each decoded and looked at, in this process."""
    rng = np.random.default_rng(7)
    files = []
    for number in range(min(count, 16)):
        small = signs.sign(number, "heldout").image
        noisy = np.asarray(Image.fromarray(small).resize((1152, 864), Image.Resampling.BICUBIC), np.int16)
        noisy = np.clip(noisy + rng.integers(-4, 5, noisy.shape), 0, 255)
        sink = io.BytesIO()
        Image.fromarray(noisy.astype(np.uint8)).save(sink, "JPEG", quality=90)
        files.append(sink.getvalue())
    brand = logos.brand(0, "heldout")
    finders: list[tuple[str, Finder | None]] = [
        ("decoding alone", None),
        ("text", TextFinder(3)),
        ("like, 1 reference", LikeFinder(FindLike(references="x"), [sought("0", brand[0])])),
    ]
    for name, finder in finders:
        started = time.process_time()
        for number in range(count):
            image = decode_rgb(files[number % len(files)], name="x", limits=ImageLimits())
            if finder is not None:
                finder.find(image)
        took = time.process_time() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{name:20}{count / took:8.2f} images/s of CPU time, peak {peak:,.0f} MiB")


if __name__ == "__main__":
    what, *numbers = sys.argv[1:]
    {"text": text, "like": like, "speed": speed}[what](*(int(number) for number in numbers or ["200"]))
