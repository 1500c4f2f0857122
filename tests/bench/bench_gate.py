"""What the shipped gates do: on RefineEval-mini, on regions that are worse on purpose, and what judging costs.

    OMP_NUM_THREADS=1 python -m tests.bench.bench_gate mini CASES --out FOLDER --weights TRUNKS [--model tiny|transfer]
    OMP_NUM_THREADS=1 python -m tests.bench.bench_gate planted [--count 500] [--model tiny|transfer]
    OMP_NUM_THREADS=1 python -m tests.bench.bench_gate cost

CASES from `refine-ops eval build-cases mini --out CASES`, TRUNKS from `python tests/support/trunk_weights.py TRUNKS`.
FOLDER keeps what was judged: the same command goes on there. Tables are Markdown.
"""

import argparse
import time
from collections import defaultdict

import cv2
import numpy as np
import torch

from refine_ops.config import ModelSettings, RefineSettings
from refine_ops.eval.cases.case_set import load_cases
from refine_ops.eval.gates.card import effect_lines
from refine_ops.eval.gates.collect import collect, open_distance
from refine_ops.judge.gate import Gate, fixed_reason, gate_for
from tests.bench.planted_regions import planted


def shipped(model: str) -> Gate:
    gate = gate_for(model)
    assert gate is not None, f"no gate ships for {model}"
    return gate


def mini(cases_uri: str, out: str, weights: str, model: str) -> list[str]:
    """The table of RefineEval-mini, by setting."""
    cases = load_cases(cases_uri)
    judged = collect(
        cases,
        cases.inputs,
        RefineSettings(model=ModelSettings(model=model)),
        torch.device("cpu"),
        open_distance(weights, False),
        out,
    )
    return effect_lines(judged, shipped(model))


def held_shares(model: str, numbers: range) -> dict[str, tuple[int, int, int]]:
    """By kind: results, held by the gate, held by the fixed rules alone."""
    gate, found = shipped(model), defaultdict(list)
    for kind, _, evidence in planted(numbers):
        found[kind].append((not gate.rule(evidence).accepted, bool(fixed_reason(evidence))))
    return {kind: (len(rows), *(sum(column) for column in zip(*rows, strict=True))) for kind, rows in found.items()}


def cost(count: int = 5) -> tuple[float, float]:
    """CPU seconds of the chain without a model, and of judging, for one region of a 12 MP JPEG; medians."""
    from refine_ops.chain import Refinement, finish_shown
    from refine_ops.judge.evidence.measure import measure
    from refine_ops.opened import open_item
    from refine_ops.records import Item, Patch, Region
    from tests.bench.planted_regions import Looks

    rng = np.random.default_rng(3)
    plain = cv2.resize(rng.integers(0, 256, (60, 90, 3), np.uint8), (4000, 3000), interpolation=cv2.INTER_CUBIC)
    picture = np.clip(plain + rng.normal(0, 6, plain.shape), 0, 255).astype(np.uint8)
    data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
    item = Item("i", "image", "o", (Region("r", "make it sharp", box=(1200, 800, 1720, 1230)),), row=0)
    settings, chain_s, judge_s = RefineSettings(), [], []
    for _ in range(count):
        started = time.process_time()
        opened = open_item(item, {"image": data}, settings)
        refinement = Refinement(item, opened, settings, Looks(32, 1024 * 1024, 0.0))
        given = refinement.conditioning()
        before = opened.source.rgb.copy()
        sharp = cv2.addWeighted(given.image, 1.5, cv2.GaussianBlur(given.image, (0, 0), 2), -0.5, 0)
        everywhere = np.ones(given.mask.shape, np.bool_)
        refinement.absorb(Patch(sharp.astype(np.float32) / 255, everywhere, 1))
        finished = finish_shown(refinement)
        chain_s.append(time.process_time() - started)
        x0, y0, x1, y1 = finished.regions[0].crop
        after = cv2.imdecode(np.frombuffer(finished.data, np.uint8), cv2.IMREAD_COLOR_RGB)
        mask = np.zeros((3000, 4000), np.bool_)
        mask[800:1230, 1200:1720] = True
        cut = np.s_[y0:y1, x0:x1]
        started = time.process_time()
        measure(*(np.ascontiguousarray(image[cut]) for image in (before, after, mask)), reach_px=8)
        judge_s.append(time.process_time() - started)
    return float(np.median(chain_s)), float(np.median(judge_s))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="what", required=True)
    real = commands.add_parser("mini")
    real.add_argument("cases")
    real.add_argument("--out", required=True)
    real.add_argument("--weights", required=True)
    false = commands.add_parser("planted")
    false.add_argument("--count", type=int, default=500)
    for command in (real, false):
        command.add_argument("--model", choices=("tiny", "transfer"), default="tiny")
    commands.add_parser("cost")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    if arguments.what == "mini":
        print("\n".join(mini(arguments.cases, arguments.out, arguments.weights, arguments.model)))
    elif arguments.what == "planted":
        print("| planted | results | held | by the fixed rules alone |\n| --- | --- | --- | --- |")
        for kind, (results, held, fixed) in held_shares(arguments.model, range(arguments.count)).items():
            print(f"| {kind} | {results} | {held / results:.1%} | {fixed / results:.1%} |")
    else:
        chain_s, judge_s = cost()
        print(f"chain {chain_s:.3f} s, judging {judge_s:.3f} s CPU per item: {judge_s / chain_s:.1%}")


if __name__ == "__main__":
    main()
