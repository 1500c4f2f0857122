"""A calibration's card: coverage against harm, what weighs how much, and what the gate did to what was planted."""

from collections.abc import Sequence

import numpy as np

from refine_ops.eval.gates.collect import MeasuredResult
from refine_ops.eval.stats import Interval
from refine_ops.eval.tables.plot import curves_svg
from refine_ops.judge.calibrate import Calibration, Promise
from refine_ops.judge.gate import Gate


def card_markdown(made: Calibration, judged: Sequence[MeasuredResult], promise: Promise) -> str:
    """The card as Markdown."""
    fitted, tested = made.cases
    lines = [
        f"# Gate of {made.gate.model if made.gate else 'nothing: refused'}",
        "",
        f"{made.results} results, {made.worse_share:.1%} of them worse; fitted on {fitted} cases, judged on {tested} "
        "others.",
        "",
    ]
    if made.gate is None:
        lines += [f"**No gate**: {made.missing}.", ""]
    else:
        said = made.gate.promise
        lines += [
            f"**Promise**: with {promise.confidence:.0%} confidence at most {promise.max_harm:.0%} of what is "
            f"published is worse. {said['worse']} of {said['cases']} published cases were: at most "
            f"{said['at_most']:.1%}.",
            "",
        ]
    lines += ["| published | worse cases | share worse, 90 % interval |", "| --- | --- | --- |"]
    for p in made.points[:: max(1, len(made.points) // 12)]:
        here = " (the gate)" if made.gate and p.threshold == made.gate.threshold else ""
        lines.append(f"| {p.coverage:.0%}{here} | {p.worse} of {p.cases} | {p.harm:.1%} [{p.low:.1%}, {p.high:.1%}] |")
    lines += ["", "| signal | points it can move | share worse without it |", "| --- | --- | --- |"]
    for name, weight in sorted(made.weights.items(), key=lambda one: -one[1]):
        without = made.without.get(name)
        lines.append(f"| {name} | {weight:.2f} | {f'{without.harm:.1%}' if without else '-'} |")
    if made.gate is not None:
        lines += ["", *effect_lines(judged, made.gate)]
    return "\n".join(lines) + "\n"


def effect_lines(judged: Sequence[MeasuredResult], gate: Gate) -> list[str]:
    """What a gate does to judged results, by setting, and to planted ones, by kind."""
    lines = [
        "| setting | results | worse | published | worse among them | PSNR_M gain | LPIPS gain |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    made = [j for j in judged if not j.kind]
    for setting in (*sorted({j.setting for j in made}), "all"):
        here = [j for j in made if setting in (j.setting, "all")]
        out = [j for j in here if gate.rule(j.evidence).accepted]
        worse = f"{sum(j.worse for j in out)}, {np.mean([j.worse for j in out]):.1%}" if out else "-"
        gain = f"{np.mean([j.gain_db for j in out]):+.2f} dB" if out else "-"
        better = [j.lpips for j in out if j.lpips is not None]
        lpips = f"{np.mean(better):+.4f}" if better else "-"
        share = f"{len(out)}, {len(out) / len(here):.0%}"
        before = f"{np.mean([j.worse for j in here]):.1%}"
        lines.append(f"| {setting} | {len(here)} | {before} | {share} | {worse} | {gain} | {lpips} |")
    kinds = sorted({j.kind for j in judged if j.kind})
    if kinds:
        lines += ["", "| planted | results | published |", "| --- | --- | --- |"]
    for kind in kinds:
        of_kind = [j for j in judged if j.kind == kind]
        through = np.mean([gate.rule(j.evidence).accepted for j in of_kind])
        lines.append(f"| {kind} | {len(of_kind)} | {through:.1%} |")
    return lines


def card_plot(made: Calibration) -> str:
    """Share worse over share published, as SVG."""
    points = sorted({round(p.coverage, 3): p for p in made.points}.items())
    if not points:
        return curves_svg("Harm", "published, %", "worse, %", [0.0], {"worse": [Interval(0.0, 0.0, 0.0, 0, 0)]})
    series = [Interval(100 * p.harm, 100 * p.low, 100 * p.high, p.cases, p.cases) for _, p in points]
    shares = [round(100 * c) for c, _ in points]
    return curves_svg("Worse among what is published", "published, %", "worse, %", shares, {"worse": series})
