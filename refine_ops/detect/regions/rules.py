"""Rules: which detections become regions of the manifest, and why the others did not."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from refine_ops.detect.finding.found import Finder, Found
from refine_ops.detect.regions.condition import Condition, measure_condition
from refine_ops.detect.regions.config import DEFAULT_RULES, DetectRegionsConfig, Rule
from refine_ops.detect.regions.damage import Damage, damage_of
from refine_ops.errors import JobError
from refine_ops.records import Box, U8Image

Fate = Literal["kept", "merged", "score", "small", "large", "sound", "covered", "too many", "malformed"]
_TOUCHING: Final = 0.3
"""Lines side by side are merged only where they share so much of the lower one's height, likewise one below another."""


@dataclass(frozen=True, slots=True, eq=False)
class Weighed:
    """A detection and what became of it. `box` is its own, clipped to the image; `region_id` names the region that it
    became a part of, `why` says in words what decided."""

    found: Found
    box: Box
    condition: Condition
    damage: Damage
    fate: Fate = "kept"
    why: str = ""
    region_id: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    """A region in the making: one detection or several merged ones."""

    name: str
    rule: Rule
    box: Box
    members: tuple[int, ...]
    score: float
    damage: float


class RuleBook:
    """The rule of every class, checked against what the detectors can find."""

    def __init__(self, config: DetectRegionsConfig, finders: Sequence[Finder]) -> None:
        """Raises: JobError -- a rule names what none of the detectors finds."""
        self._config = config
        self._rules = dict(config.rules)
        open_ended = any(finder.classes is None for finder in finders)
        known = sorted({name for f in finders for name in (f.name, *(f.classes or ()))})
        for name in self._rules:
            if name not in known and not open_ended:
                raise JobError(f"rules: {name!r} is found by none of the detectors; they find {', '.join(known)}")

    def rule(self, found: Found) -> Rule:
        """By class, else by detector, else the default one."""
        for name in (found.name, found.detector):
            if name in self._rules:
                return self._rules[name]
        return DEFAULT_RULES.get(found.detector, Rule())

    def weigh(self, image: U8Image, found: Sequence[Found]) -> tuple[list[dict[str, Any]], list[Weighed]]:
        """Regions as the manifest has them, and every detection with what became of it, in the order given."""
        height, width = image.shape[:2]
        weighed = []
        for one in found:
            condition = measure_condition(image, one.quad, one.legibility, one.softness)
            weighed.append(Weighed(one, one.box(width, height), condition, damage_of(condition)))
        weighed = [self._alone(one, width * height) for one in weighed]
        candidates = self._candidates(weighed)
        for number, candidate in enumerate(candidates):
            candidates[number] = _widened(candidate, width, height)
        chosen = self._chosen(candidates, weighed)
        return _written(chosen, weighed), weighed

    def _alone(self, one: Weighed, pixels: int) -> Weighed:
        """What its rule says of one detection by itself."""
        rule = self.rule(one.found)
        x0, y0, x1, y1 = one.box
        short, long = sorted((x1 - x0, y1 - y0))
        share = short * long / pixels
        fate: Fate | None = None
        if one.found.score < rule.min_score:
            fate, why = "score", f"score {one.found.score:.2f}, at least {rule.min_score:g} asked for"
        elif short < rule.min_side_px or share < rule.min_share:
            fate, why = (
                "small",
                (
                    f"{short} px on its shorter side and {share:.2%} of the image, at least {rule.min_side_px} px and "
                    f"{rule.min_share:.2%} asked for"
                ),
            )
        elif share > rule.max_share or (rule.max_side_px is not None and long > rule.max_side_px):
            fate, why = "large", f"{long} px on its longer side and {share:.0%} of the image, more than allowed"
        elif (rule.only or self._config.only) == "damaged" and one.damage.probability < rule.damage:
            fate, why = "sound", f"{one.damage.words}; damaged with probability {one.damage.probability:.2f}"
            why += f", at least {rule.damage:g} asked for"
        return one if fate is None else dataclasses.replace(one, fate=fate, why=why)

    def _candidates(self, weighed: Sequence[Weighed]) -> list[_Candidate]:
        """Neighbours of one class merged, as far as their rule says."""
        waiting = [
            _Candidate(w.found.name, self.rule(w.found), w.box, (number,), w.found.score, w.damage.probability)
            for number, w in enumerate(weighed)
            if w.fate == "kept"
        ]
        done: list[_Candidate] = []
        while waiting:
            one = waiting.pop(0)
            near = next((other for other in waiting if _neighbours(one, other)), None)
            if near is None:
                done.append(one)
            else:
                waiting.remove(near)
                waiting.insert(0, _merged(one, near))
        return done

    def _chosen(self, candidates: list[_Candidate], weighed: list[Weighed]) -> list[_Candidate]:
        """The best ones that are not covered by better ones, within the limits; what becomes of the rest is noted."""
        order = sorted(
            candidates, key=lambda c: (not c.rule.reference and not _has_reference(c, weighed), -c.score, c.box)
        )
        chosen: list[_Candidate] = []
        for one in order:
            better = next((c for c in chosen if _share_of(one.box, c.box) >= self._config.overlap), None)
            if better is not None:
                _note(weighed, one, "covered", f"{_share_of(one.box, better.box):.0%} of it lies in a better region")
            elif sum(c.name == one.name for c in chosen) >= one.rule.most:
                _note(weighed, one, "too many", f"{one.rule.most} better ones of {one.name!r}; more are not wanted")
            elif len(chosen) >= self._config.max_regions:
                _note(weighed, one, "too many", f"{len(chosen)} better regions; more are not wanted (max_regions)")
            else:
                chosen.append(one)
        return sorted(chosen, key=lambda c: (c.name, c.box[1], c.box[0], c.box))


def _written(chosen: Sequence[_Candidate], weighed: list[Weighed]) -> list[dict[str, Any]]:
    counts: dict[str, int] = {}
    regions = []
    for one in chosen:
        counts[one.name] = counts.get(one.name, 0) + 1
        region_id = f"{one.name}-{counts[one.name]}"
        members = [weighed[number].found for number in one.members]
        members.sort(key=lambda f: (float(f.quad[:, 1].min()), float(f.quad[:, 0].min())))
        prompt = _prompt(one, members)
        reference = one.rule.reference or next((f.reference for f in members if f.reference), None)
        given = {"reference": reference, "seed": one.rule.seed, "paste": one.rule.paste}
        regions.append({"region_id": region_id, "prompt": prompt, "box": list(one.box), **given})
        for number in one.members:
            fate: Fate = "kept" if len(one.members) == 1 else "merged"
            why = f"{weighed[number].damage.words}; became {region_id}"
            weighed[number] = dataclasses.replace(weighed[number], fate=fate, why=why, region_id=region_id)
    return regions


def _prompt(one: _Candidate, members: Sequence[Found]) -> str:
    """A text that is perhaps misread is not asked for: the model would write what was misread."""
    text = " ".join(f.text for f in members if f.text)
    believed = text and min(f.legibility or 0.0 for f in members) >= one.rule.sure
    wanted = one.rule.prompt if believed or one.rule.unsure_prompt is None else one.rule.unsure_prompt
    return wanted.format_map({"text": text, "class": one.name}).strip()


def _note(weighed: list[Weighed], one: _Candidate, fate: Fate, why: str) -> None:
    for number in one.members:
        weighed[number] = dataclasses.replace(weighed[number], fate=fate, why=why)


def _has_reference(one: _Candidate, weighed: Sequence[Weighed]) -> bool:
    return any(weighed[number].found.reference for number in one.members)


def _neighbours(one: _Candidate, other: _Candidate) -> bool:
    if one.name != other.name or one.rule.merge is None:
        return False
    reach = one.rule.merge * min(*_sides(one.box), *_sides(other.box))
    gaps = [max(one.box[i], other.box[i]) - min(one.box[i + 2], other.box[i + 2]) for i in (0, 1)]
    least = [min(_sides(one.box)[i], _sides(other.box)[i]) for i in (0, 1)]
    return any(gaps[i] <= reach and -gaps[1 - i] >= _TOUCHING * least[1 - i] for i in (0, 1))


def _merged(one: _Candidate, other: _Candidate) -> _Candidate:
    low, high = np.minimum(one.box[:2], other.box[:2]), np.maximum(one.box[2:], other.box[2:])
    box = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
    score, damage = max(one.score, other.score), max(one.damage, other.damage)
    return _Candidate(one.name, one.rule, box, (*one.members, *other.members), score, damage)


def _widened(one: _Candidate, width: int, height: int) -> _Candidate:
    by = round(one.rule.margin * min(_sides(one.box)))
    x0, y0, x1, y1 = one.box
    box = (max(0, x0 - by), max(0, y0 - by), min(width, x1 + by), min(height, y1 + by))
    return dataclasses.replace(one, box=box)


def _sides(box: Box) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]


def _share_of(one: Box, other: Box) -> float:
    """How much of the first lies in the second."""
    common = [min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1)]
    return max(0, common[0]) * max(0, common[1]) / (_sides(one)[0] * _sides(one)[1])
