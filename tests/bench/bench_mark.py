"""Marking in a folder of many images: until the page is there, until a change is saved, thumbnails.

    python tests/bench/bench_mark.py --images 10000

Links to one JPEG of 12 MP; seconds of this process's own work (CPU), but for the page in the browser (by the clock).
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from refine_ops.image.read import decode_rgb
from refine_ops.mark.folder import list_images
from refine_ops.mark.manifest_file import manifest_bytes
from refine_ops.mark.regions import PageRegions
from refine_ops.mark.session import MarkSession
from refine_ops.records import Item, Region
from tests.support.browser import chromium
from tests.support.mark_page import opened, served
from tests.support.photos import PHOTOS


def timed(what: str, work: Callable[[], Any]) -> Any:
    began = time.process_time()
    result = work()
    print(f"{what:58}{time.process_time() - began:9.3f} s")
    return result


def main(images: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        photos.mkdir()
        with Image.open(PHOTOS / "astronaut.jpg") as photo:
            photo.resize((4000, 3000)).save(Path(folder) / "one.jpg", quality=92)
        for number in range(images):
            os.link(Path(folder) / "one.jpg", photos / f"{number:06}.jpg")
        items = [
            Item(f"{n:06}", f"{photos}/{n:06}.jpg", f"{n:06}.jpg", (Region("1", "Refine it", box=(9, 9, 99, 99)),), n)
            for n in range(1, images)
        ]
        print(f"{images:,} images of 12 MP, all but one of them marked")
        listed = timed("list the folder", lambda: list_images(str(photos)))
        for suffix in ("jsonl", "csv", "parquet"):
            manifest = photos / f"manifest.{suffix}"
            manifest.write_bytes(manifest_bytes(items, str(manifest)))
            session = timed(f"read manifest.{suffix}", lambda m=manifest: MarkSession.open(str(m), listed))
            session.pictures.size(session.uri_of(0))
            body = {"version": 0, "regions": [{"region_id": "1", "prompt": "x", "box": [1, 2, 30, 40]}]}
            sent = PageRegions.model_validate(body)
            timed(f"save a change in manifest.{suffix}", lambda s=session, p=sent: s.put(0, p))
        data = (photos / "000001.jpg").read_bytes()
        timed("decode one image as a run does", lambda: decode_rgb(data, name="x", limits=session.pictures.limits))
        timed("a view of it", lambda: session.pictures.view(session.uri_of(1)))
        timed("a thumbnail", lambda: session.pictures.thumb(session.uri_of(2)))
        with served(photos, photos) as address, chromium() as browser:
            began = time.monotonic()
            with opened(browser, address) as marking:
                print(f"{'the page, until it can be used (by the clock)':58}{time.monotonic() - began:9.3f} s")
                began = time.monotonic()
                marking.page.locator("#scroller").evaluate("(all) => { all.scrollTop = all.scrollHeight; }")
                marking.page.wait_for_selector(f'[data-place="{images - 1}"]')
                print(f"{'to the last image (by the clock)':58}{time.monotonic() - began:9.3f} s")
                print(f"cells in the page: {marking.page.locator('.cell').count()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=10_000)
    main(parser.parse_args().images)
