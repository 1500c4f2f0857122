"""A page of pictures per evaluation: every method beside input and truth, worst and best inputs of the first method."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

import cv2
import numpy as np

from refine_ops import storage
from refine_ops.eval.cases.case_set import CaseSet, EvalInput, load_input
from refine_ops.eval.config import RefineEvalConfig
from refine_ops.eval.measure import MethodRun, find_output
from refine_ops.eval.metrics.metric import Metric
from refine_ops.eval.results import Results
from refine_ops.image.formats.png_pixels import encode_png
from refine_ops.image.read import decode
from refine_ops.records import Box, U8Image

_SHOWN_PX: Final = 256
_STYLE: Final = """
:root{color-scheme:light dark;font:14px/1.4 system-ui,sans-serif}body{margin:1.5rem}
section{display:flex;gap:.6rem;overflow-x:auto;padding:.6rem 0;border-bottom:1px solid #8884}
figure{margin:0}img{display:block;width:256px;image-rendering:pixelated}figcaption{font-size:.8rem}
"""


def write_gallery(
    out: str,
    cases: CaseSet,
    inputs: Sequence[EvalInput],
    runs: Sequence[MethodRun],
    results: Results,
    metrics: Sequence[Metric],
    config: RefineEvalConfig,
) -> None:
    """Write `OUT/gallery/index.html` and its pictures: the object box with surroundings, enlarged to 256 px."""
    known = {m.name: m for m in metrics}
    name = config.primary if results.values(runs[0].name, config.primary) else "mse"
    if not config.gallery or name not in known:
        return
    values = {run.name: results.values(run.name, name) for run in runs}
    sign = -1 if known[name].better == "lower" else 1
    first = values[runs[0].name]
    order = sorted((i for i in inputs if i.input_id in first), key=lambda i: sign * first[i.input_id][1])
    half = (config.gallery + 1) // 2
    shown = {"worst": order[:half], "best": order[half:][::-1][: config.gallery - half]}
    body = []
    for title, items in shown.items():
        heading = f"{title.capitalize()} {len(items)} of '{runs[0].name}' by {known[name].label}"
        body.append(f"<h2>{escape(heading)}</h2>")
        body += [_row(out, cases, item, runs, values, config) for item in items]
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' file:"
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}"><title>Gallery</title>'
    page = f'<!doctype html><html lang="en"><head>{head}<style>{_STYLE}</style></head><body>{"".join(body)}'
    storage.write(storage.join(out, "gallery", "index.html"), page.encode())


def _row(
    out: str,
    cases: CaseSet,
    item: EvalInput,
    runs: Sequence[MethodRun],
    values: Mapping[str, Mapping[str, tuple[str, float]]],
    config: RefineEvalConfig,
) -> str:
    loaded = load_input(cases, item, config.limits)
    pictures: list[tuple[str, U8Image]] = [("truth", loaded.target), ("input", _outlined(loaded.image, loaded.mask))]
    for run in runs:
        uri = find_output(run, item)
        if uri is not None:
            score = values[run.name].get(item.input_id)
            label = run.name if score is None else f"{run.name}: {score[1]:.4g}"
            pictures.append((label, decode(storage.read(uri), name=uri, limits=config.limits).rgb))
    figures = []
    for n, (label, image) in enumerate(pictures):
        file = f"{item.input_id}.{n}.png"
        shown = _enlarged(image, item.object_box)
        storage.write(storage.join(out, "gallery", file), encode_png(shown))
        figures.append(f'<figure><img src="{escape(file)}" alt=""><figcaption>{escape(label)}</figcaption></figure>')
    caption = f"{item.input_id}: {item.instruction}"
    return f"<h3>{escape(caption)}</h3><section>{''.join(figures)}</section>"


def _outlined(image: U8Image, mask: np.ndarray) -> U8Image:
    drawn = image.copy()
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, contours, -1, (60, 220, 90), 1)
    return drawn


def _enlarged(image: U8Image, box: Box) -> U8Image:
    x0, y0, x1, y1 = box
    dx, dy = (x1 - x0) // 5, (y1 - y0) // 5
    crop = image[max(0, y0 - dy) : y1 + dy, max(0, x0 - dx) : x1 + dx]
    scale = _SHOWN_PX / max(crop.shape[:2])
    size = round(crop.shape[1] * scale), round(crop.shape[0] * scale)
    return np.asarray(
        cv2.resize(crop, size, interpolation=cv2.INTER_NEAREST if scale > 1 else cv2.INTER_AREA), np.uint8
    )
