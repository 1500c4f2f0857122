"""What a case set looks like: contact sheets to choose from, and the card."""

from collections import Counter
from collections.abc import Mapping, Sequence

from refine_ops.config import ImageLimits
from refine_ops.eval.cases.case_set import CaseSet, load_input
from refine_ops.eval.cases.degraded import DegradedVersion
from refine_ops.eval.config import BuildCasesConfig
from refine_ops.image.sheet import SheetCell, SheetRow, draw_sheet
from refine_ops.records import U8Image

_CELL_PX = 112


def case_sheet(target: U8Image, every: Sequence[DegradedVersion], kept: Sequence[DegradedVersion]) -> bytes:
    """PNG: one row per degrader, all its versions, the kept ones framed; the clean image stands first."""
    chosen = {id(c) for c in kept}
    rows = []
    for degrader in dict.fromkeys(c.degrader for c in every):
        versions = [c for c in every if c.degrader == degrader]
        tiles = [SheetCell(target, ("clean",))]
        tiles += [SheetCell(c.image, (f"{c.name} {c.change:.0f}",), framed=id(c) in chosen) for c in versions]
        rows.append(SheetRow(tiles, degrader))
    return draw_sheet(rows, _CELL_PX)


def contact_sheet(cases: CaseSet) -> bytes:
    """PNG: one row per case: reference (or nothing), target, and its inputs."""
    rows = []
    for case_id, items in cases.by_case().items():
        tiles: list[SheetCell] = []
        for item in items:
            loaded = load_input(cases, item, ImageLimits())
            if not tiles:
                tiles = [SheetCell(loaded.reference, ("reference",)), SheetCell(loaded.target, ("target",))]
            tiles.append(SheetCell(loaded.image, (f"{item.degrader} {item.change:.0f}",)))
        rows.append(SheetRow(tiles, f"{case_id}, {items[0].setting}, {items[0].category}"))
    return draw_sheet(rows, _CELL_PX)


def write_card(cases: CaseSet, config: BuildCasesConfig, dropped: Mapping[str, str]) -> str:
    """The set's README: counts, how inputs were made and chosen, sources and licences."""
    firsts = [items[0] for items in cases.by_case().values()]
    counts = Counter((i.setting, i.category) for i in firsts)
    sources = sorted({(i.source, i.licence) for i in firsts})
    degraders = ", ".join(sorted({i.degrader for i in cases.inputs}))
    name = "RefineEval-mini" if config.annotations == "mini" else "A RefineEval case set"
    lines = [
        f"# {name}",
        "",
        f"{len(firsts)} cases, {len(cases.inputs)} degraded inputs. Digest `{cases.digest[:16]}`.",
        "",
        "| setting | category | cases |",
        "| --- | --- | ---: |",
        *(f"| {setting} | {category} | {n} |" for (setting, category), n in sorted(counts.items())),
        "",
        f"Per case and degrader ({degraders}): {config.scribbles} scribbles x {config.seeds} seeds; {config.keep} kept "
        f"by rule: mean change over the mask between {config.min_change} and {config.max_change} of 255, at even ranks "
        "from mild to harsh, different scribbles. All versions are in `candidates/`; an overrides file replaces the "
        "rule's choice by hand.",
        "",
        "Inputs equal their targets outside the degradation's blend support, bit for bit. Files carry SHA-256 hashes "
        "in `cases.parquet`. JPEG inputs have object boxes on the MCU grid, since a JPEG cannot change by less.",
        "",
        "## Sources",
        "",
        *(f"- {source} -- {licence}" for source, licence in sources),
    ]
    if dropped:
        lines += ["", "## Dropped", "", *(f"- `{case_id}`: {reason}" for case_id, reason in dropped.items())]
    return "\n".join(lines) + "\n"
