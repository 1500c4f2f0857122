"""The refiner's bench runs, agrees with diffusers' own loop, and is faster than it.

The comparison is slow; last run: 2026-11-25, fe69c38, two shared cores: passed in 20 s.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from refine_ops.model.doctor.random_weights import SMALL, random_pipeline

pytestmark = pytest.mark.processes

BENCH = Path(__file__).with_name("bench_refiner.py")


def run_bench(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    file = tmp_path / "figures.json"
    command = [sys.executable, str(BENCH), "--json", str(file), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    print(done.stdout)
    figures: dict[str, Any] = json.loads(file.read_text())
    return figures


@pytest.mark.slow  # agreement is tests/model/test_parity.py's, at every change
def test_bundled_model_beats_diffusers_loop_and_agrees_with_it(tmp_path: Path) -> None:
    figures = run_bench(tmp_path, "--parts", "compare", "--repeats", "2")["compare"]
    assert figures["max_diff"] < 1e-5
    assert figures["ratio"] >= 1.5


def test_all_parts_run_on_random_weights(tmp_path: Path) -> None:
    figures = run_bench(tmp_path, "--random", "--repeats", "1", "--steps", "2", "--items", "2", "--batch-size", "2")
    assert {row["mode"] for row in figures["steps"]} >= {"stock", "fast", "sparse"}
    assert all(row["s_per_step"] > 0 and row["floor_s"] > 0 for row in figures["steps"])
    assert figures["worker"]["s_per_item"] > 0


def test_what_is_computed_once_is_counted_once(tmp_path: Path) -> None:
    """A step's work by arithmetic, over a quarter of the crop, 1,024 tokens per image and 45 of text."""
    rows = run_bench(tmp_path, "--random", "--repeats", "1", "--steps", "4", "--parts", "conditions")["conditions"]
    by = {(row["images"], row["conditions"], row["share"]): row for row in rows}
    config = random_pipeline(SMALL).transformer.config
    blocks, channels = config.num_layers, config.in_channels
    dim = config.num_attention_heads * config.attention_head_dim
    targets, text = 256, 45
    for images in (3, 4):
        known = (images - 1) * 1024
        total = targets + known + text
        ends = 4 * targets * dim * channels  # tokens in, velocity out
        # A token costs 24 dim^2 per block (8 for projections, 16 for the feed-forward), 4 dim per pair that attends;
        # in the last block, text and conditions give keys and values alone: 4 dim^2.
        joint = (blocks - 1) * (24 * dim**2 * total + 4 * dim * total**2)
        joint += 24 * dim**2 * targets + 4 * dim**2 * (text + known) + 4 * dim * targets * total
        cached = (blocks - 1) * (24 * dim**2 * (targets + text) + 4 * dim * (targets + text) * total)
        cached += 24 * dim**2 * targets + 4 * dim**2 * text + 4 * dim * targets * total
        with_text = blocks * (24 * dim**2 * targets + 4 * dim * targets * total)
        prefill = (blocks - 1) * (24 * dim**2 * known + 4 * dim * known**2) + 4 * dim**2 * known
        assert by[images, "joint", 0.25]["step_flop"] == joint + ends
        assert by[images, "cached", 0.25]["step_flop"] == cached + ends
        assert by[images, "cached+text", 0.25]["step_flop"] == with_text + ends
        assert by[images, "cached", 0.25]["prefill_flop"] == prefill
