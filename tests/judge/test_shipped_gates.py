"""The gates that ship hold what is worse on purpose and publish what is truly restored."""

import json
from collections.abc import Mapping

import pytest

from refine_ops.eval.gates.collect import RESTORED
from refine_ops.judge.gate import SHIPPED, gate_for, gate_of
from tests.bench.bench_gate import held_shares


@pytest.mark.parametrize("model", [model for model, path in SHIPPED.items() if path.is_file()])
def test_a_shipped_gate_says_what_it_promises(model: str) -> None:
    gate = gate_for(model)
    assert gate is not None
    assert gate.model == model
    assert gate.promise["max_harm"] == 0.05
    assert gate.promise["confidence"] == 0.95
    assert gate.promise["at_most"] <= 0.05
    assert gate.promise["cases"] >= 59
    card = json.loads(SHIPPED[model].read_text())["card"]
    assert 0 < card["coverage"] <= 1
    assert gate_of(json.loads(SHIPPED[model].read_text())).fingerprint == gate.fingerprint


def holds(shares: Mapping[str, tuple[int, int, int]], least: float) -> None:
    for kind, (results, held, _) in shares.items():
        if kind != RESTORED:
            assert held >= least * results, kind


@pytest.mark.long
def test_the_gate_of_tiny_holds_what_is_worse_on_purpose() -> None:
    shares = held_shares("tiny", range(30))
    results, held, by_fixed_rules = (sum(row[i] for kind, row in shares.items() if kind != RESTORED) for i in range(3))
    assert results > 150
    assert held >= 0.95 * results
    assert by_fixed_rules < 0.8 * results, "the fixed rules alone do not do it"
    holds(shares, 0.88)
    restored, restored_held, _ = shares[RESTORED]
    assert restored_held <= 0.1 * restored


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_gate_of_tiny_on_500_regions_of_each_kind() -> None:
    """At least 95 % of each of eight kinds of worse results held, at least 90 % of true restorations published.

    Last run, 540 regions: 334 to 512 of each kind are worse, 96.1 % (garbled text) to 100 % held; 94.7 % of 513 true
    ones published; 503 s.
    """
    shares = held_shares("tiny", range(500))
    print(shares)
    holds(shares, 0.95)
    restored, restored_held, _ = shares[RESTORED]
    assert restored_held <= 0.1 * restored
