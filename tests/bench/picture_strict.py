"""The README's picture: what changes in a JPEG when one region is replaced, here and with a plain save.

    python tests/bench/picture_strict.py docs/strict.png

Four panels of one photo (the astronaut, NASA, public domain): the file, the file with one region blurred and then
restored by the original's own pixels (no model takes part), every pixel that differs between the two files, and every
pixel that differs when the same edit is saved with Pillow at the file's own quantisation tables.
"""

import sys
from io import BytesIO

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage import data

from refine_ops.config import ImageLimits, PasteSettings, WriteSettings
from refine_ops.image import focus, paste, read, write
from refine_ops.proof import verify
from refine_ops.proof.allowed import Rules

BOX = (190, 60, 262, 150)
CAPTION_PX = 46


def damaged_jpeg(photo: np.ndarray) -> bytes:
    damaged = photo.copy()
    x0, y0, x1, y1 = BOX
    damaged[y0:y1, x0:x1] = cv2.GaussianBlur(photo, (0, 0), 6)[y0:y1, x0:x1]
    out = BytesIO()
    Image.fromarray(damaged).save(out, "JPEG", quality=88, subsampling=2)
    return out.getvalue()


def restored(source_bytes: bytes, photo: np.ndarray) -> tuple[np.ndarray, bytes]:
    """The edited pixels, and the file this project writes for them."""
    source = read.decode(source_bytes, name="astronaut.jpg", limits=ImageLimits())
    mask = np.zeros((source.height, source.width), np.bool_)
    mask[BOX[1] : BOX[3], BOX[0] : BOX[2]] = True
    crop = focus.plan_crop(mask, margin_px=32, grid_px=32, pixels=512 * 512)
    canvas = paste.Canvas.from_source(source)
    patch = focus.view(photo, crop).astype(np.float32) / np.float32(255)
    canvas.paste(crop, focus.unview(patch, crop), paste.blend_mask(focus.crop_of(mask, crop.crop), PasteSettings()))
    encoded = write.encode(source, canvas, WriteSettings())
    verify.verify(source, encoded.data, [(mask, "mask")], Rules())
    return np.array(canvas.rgb), encoded.data


def resaved(rgb: np.ndarray, source_bytes: bytes) -> bytes:
    out = BytesIO()
    tables = Image.open(BytesIO(source_bytes)).quantization
    Image.fromarray(rgb).save(out, "JPEG", qtables=tables, subsampling=2)
    return out.getvalue()


def decoded(data_: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(data_)))


def changes(before: np.ndarray, after: np.ndarray) -> tuple[Image.Image, int]:
    """Changed pixels in red over a pale copy of the photo, and how many lie outside the region's surroundings."""
    differs = (before != after).any(axis=2)
    pale = 255 - (255 - before.mean(axis=2, keepdims=True).repeat(3, axis=2)) * 0.25
    pale[differs] = (214, 40, 40)
    return Image.fromarray(pale.astype(np.uint8)), int(differs.sum())


def main(path: str) -> None:
    photo = np.ascontiguousarray(data.astronaut())
    source = damaged_jpeg(photo)
    edited, ours = restored(source, photo)
    before = decoded(source)
    our_map, our_count = changes(before, decoded(ours))
    their_map, their_count = changes(before, decoded(resaved(edited, source)))
    total = before.shape[0] * before.shape[1]
    panels = [
        (Image.fromarray(before), "JPEG with a damaged region"),
        (Image.fromarray(decoded(ours)), "region replaced"),
        (our_map, f"pixels changed here: {our_count / total:.1%}"),
        (their_map, f"by a plain save, same tables: {their_count / total:.1%}"),
    ]
    width, height = panels[0][0].size
    sheet = Image.new("RGB", (width * len(panels) + 8 * (len(panels) - 1), height + CAPTION_PX), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=24)
    for index, (panel, caption) in enumerate(panels):
        left = index * (width + 8)
        sheet.paste(panel, (left, CAPTION_PX))
        draw.text((left + 4, 8), caption, "black", font)
    sheet.resize((sheet.width // 2, sheet.height // 2), Image.Resampling.LANCZOS).save(path, optimize=True)
    print(f"{path}: {our_count} px changed here, {their_count} px by a plain save, of {total}")


if __name__ == "__main__":
    main(sys.argv[1])
