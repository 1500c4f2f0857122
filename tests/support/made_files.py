"""Image files of every kind the project accepts, made with encoders that know nothing of it."""

import struct
import zlib
from io import BytesIO

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageCms

SAMPLINGS = {
    "444": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "422": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "420": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "440": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    "411": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
}
MCU = {"444": (8, 8), "422": (16, 8), "420": (16, 16), "440": (8, 16), "411": (32, 8)}
"""(width, height) in pixels, from the sampling factors' definition (ITU-T T.81, A.2.4)."""
XMP = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"


def picture(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """`uint8 (h, w, 3)`: smooth colours with edges and some noise, the full range used."""
    coarse = rng.integers(0, 256, (max(2, height // 12), max(2, width // 12), 3)).astype(np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    cv2.rectangle(smooth, (width // 5, height // 5), (width // 2, height // 2), (250, 20, 30), 2)
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


def exif_block(orientation: int, thumbnail: bytes = b"", order: str = "<") -> bytes:
    """A TIFF-structured block: IFD 0 with orientation and artist, IFD 1 with a thumbnail if given."""
    artist = b"A. Photographer\0"
    first, entries = 8, 2
    text_at = first + 2 + 12 * entries + 4
    second = text_at + len(artist)
    block = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", first)
    block += struct.pack(order + "H", entries)
    block += struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    block += struct.pack(order + "HHII", 0x013B, 2, len(artist), text_at)
    block += struct.pack(order + "I", second if thumbnail else 0) + artist
    if thumbnail:
        at = second + 2 + 12 * 3 + 4
        block += struct.pack(order + "H", 3)
        block += struct.pack(order + "HHIHH", 0x0103, 3, 1, 6, 0)
        block += struct.pack(order + "HHII", 0x0201, 4, 1, at)
        block += struct.pack(order + "HHII", 0x0202, 4, 1, len(thumbnail))
        block += struct.pack(order + "I", 0) + thumbnail
    return block


def wide_profile() -> bytes:
    """A matrix profile with Adobe RGB (1998)'s primaries and gamma 2.2, built from its published numbers."""
    d50 = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])

    def s15(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 10) + b"Wide test\0" + bytes(78),
        b"wtpt": b"XYZ " + bytes(4) + s15(0.9642, 1.0, 0.8249),
        b"cprt": b"text" + bytes(4) + b"none\0",
    }
    for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), d50.T, strict=True):
        tags[name] = b"XYZ " + bytes(4) + s15(*column)
    for name in (b"rTRC", b"gTRC", b"bTRC"):
        tags[name] = b"curv" + bytes(4) + struct.pack(">IH", 1, 563) + bytes(2)
    body, table, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        table += name + struct.pack(">II", at + len(body), len(value))
        body += value
    head = struct.pack(">I4sI4s4s4s", at + len(body), b"test", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + s15(0.9642, 1.0, 0.8249)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def with_segments(jpeg: bytes, *segments: tuple[int, bytes], trailing: bytes = b"") -> bytes:
    """Marker segments put right after SOI (and JFIF, if there), and bytes after EOI."""
    at = 2
    if jpeg[2:4] == b"\xff\xe0":
        at += 2 + int.from_bytes(jpeg[4:6], "big")
    extra = b"".join(struct.pack(">BBH", 0xFF, m, len(p) + 2) + p for m, p in segments)
    return jpeg[:at] + extra + jpeg[at:] + trailing


def jpeg(
    rgb: np.ndarray, sampling: str = "420", quality: int = 85, progressive: bool = False, restart: int = 0
) -> bytes:
    """An RGB JPEG by OpenCV; `restart` in MCUs."""
    parameters = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[sampling]]
    parameters += [cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive), cv2.IMWRITE_JPEG_RST_INTERVAL, restart]
    return bytes(cv2.imencode(".jpg", rgb[..., ::-1], parameters)[1])


def odd_jpeg(rgb: np.ndarray, kind: str, quality: int = 85, progressive: bool = False) -> bytes:
    """JPEGs other than YCbCr: 'grey', 'cmyk', 'ycck', 'rgb'."""
    out = BytesIO()
    image = Image.fromarray(rgb)
    if kind == "rgb":
        image.save(out, "JPEG", quality=quality, progressive=progressive, keep_rgb=True)
        return out.getvalue()
    image = image.convert("L" if kind == "grey" else "CMYK")
    if kind == "ycck":
        ink = np.asarray(image)
        ycc = np.asarray(Image.fromarray(np.ascontiguousarray(ink[..., :3])).convert("YCbCr"))
        # Pillow inverts CMYK as it writes; YCCK codes the luma and chroma of the inks themselves.
        image = Image.frombytes("CMYK", image.size, np.concatenate([255 - ycc, ink[..., 3:]], axis=2).tobytes())
    image.save(out, "JPEG", quality=quality, progressive=progressive)
    coded = out.getvalue()
    if kind == "ycck":
        # The Adobe marker alone says how four components are to be read: 2 is YCCK.
        at = coded.index(b"\xff\xee") + 4 + 11
        coded = coded[:at] + b"\x02" + coded[at + 1 :]
    return coded


def png_chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def with_chunks(png: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Ancillary chunks put right after the header."""
    return png[:33] + b"".join(png_chunk(*c) for c in chunks) + png[33:]


def png(samples: np.ndarray, interlaced: bool = False) -> bytes:
    """A PNG of 8- or 16-bit samples `(h, w, C)`, C in 1-4, written here byte by byte, filter 0."""
    height, width, channels = samples.shape
    depth = samples.dtype.itemsize * 8
    big = samples.astype(samples.dtype.newbyteorder(">"))
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = []
    for x, y, dx, dy in passes:
        part = big[y::dy, x::dx]
        rows += [b"\0" + row.tobytes() for row in part if part.shape[1]]
    head = struct.pack(">IIBBBBB", width, height, depth, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, int(interlaced))
    data = zlib.compress(b"".join(rows))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def unfilter_png(data: bytes) -> np.ndarray:
    """Samples of a non-interlaced 8- or 16-bit PNG, by the standard's own recursion: a judge without a library."""
    at, coded, head = 8, b"", b""
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        kind, payload = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        head = payload if kind == b"IHDR" else head
        coded += payload if kind == b"IDAT" else b""
        at += 12 + size
    width, height, depth, colour = struct.unpack(">IIBB", head[:10])
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    step, stride = channels * depth // 8, width * channels * depth // 8
    raw = zlib.decompress(coded)
    out = np.zeros((height + 1, stride + step), np.int64)
    for y in range(height):
        kind, line = raw[y * (stride + 1)], raw[y * (stride + 1) + 1 : (y + 1) * (stride + 1)]
        above, row = out[y], out[y + 1]
        for x in range(stride):
            a, b, c = row[x], above[x + step], above[x]
            if kind == 4:
                p = a + b - c
                guess = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
            else:
                guess = (0, a, b, (a + b) // 2)[kind]
            row[x + step] = (line[x] + guess) % 256
    samples = out[1:, step:].astype(np.uint8).reshape(height, width * channels * depth // 8)
    samples = samples.view(">u2").astype(np.uint16) if depth == 16 else samples
    return samples.reshape(height, width, channels)


def palette_png(rgb: np.ndarray, colours: int, bits: int, transparent: bool = False) -> bytes:
    image = Image.fromarray(rgb).quantize(colours)
    out = BytesIO()
    image.save(out, "PNG", bits=bits, **({"transparency": bytes([0, 128])} if transparent else {}))
    return out.getvalue()


def webp(samples: np.ndarray, lossless: bool, **extra: bytes) -> bytes:
    out = BytesIO()
    Image.fromarray(samples).save(out, "WEBP", lossless=lossless, exact=True, quality=80, method=0, **extra)
    return out.getvalue()


def tiff(
    samples: np.ndarray,
    compression: str = "raw",
    predictor: bool = False,
    big_endian: bool = False,
    orientation: int = 1,
    icc: bytes | None = None,
) -> bytes:
    """A TIFF in strips of 16 rows; LZW and PackBits by libtiff (8 bits only), the rest by tifffile."""
    channels = samples.shape[2]
    if compression in ("tiff_lzw", "packbits"):
        out = BytesIO()
        tags = {317: 2 if predictor and compression == "tiff_lzw" else 1, 278: 16, 274: orientation, 315: "me"}
        Image.fromarray(samples[..., 0] if channels == 1 else samples).save(
            out, "TIFF", compression=compression, tiffinfo=tags, **({"icc_profile": icc} if icc else {})
        )
        return out.getvalue()
    out = BytesIO()
    tifffile.imwrite(
        out,
        samples[..., 0] if channels == 1 else samples,
        photometric="minisblack" if channels == 1 else "rgb",
        extrasamples=["unassalpha"] if channels == 4 else None,
        rowsperstrip=16,
        compression=None if compression == "raw" else "zlib",
        byteorder=">" if big_endian else "<",
        predictor=predictor and compression != "raw",
        iccprofile=icc,
        extratags=[(274, 3, 1, orientation, True), (315, 2, 3, "me", True)],
        metadata=None,
    )
    return out.getvalue()


def pillow_samples(data: bytes) -> np.ndarray:
    """As Pillow decodes; palettes expanded."""
    with Image.open(BytesIO(data)) as image:
        if image.mode == "P":
            image = image.convert("RGBA" if "transparency" in image.info else "RGB")
        samples = np.asarray(image)
    return samples if samples.ndim == 3 else samples[:, :, None]


def opencv_samples(data: bytes) -> np.ndarray:
    """As OpenCV decodes, nothing converted, channels in its own order."""
    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert samples is not None
    return samples if samples.ndim == 3 else samples[:, :, None]
