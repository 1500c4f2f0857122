"""An adapter learns what its base was never shown: a style and a damage that are outside the base's recipe.

Last run: 2026-11-25, fe69c38, one thread: passed in 28 s.
"""

from pathlib import Path

import numpy as np
import pytest

from refine_ops.data.stages.damages import DAMAGES
from refine_ops.data.synthetic.maker import FAMILIES
from refine_ops.eval.stats import paired_comparison
from refine_ops.train.run import train
from tests.train import new_family

pytestmark = [pytest.mark.slow, pytest.mark.processes]


def test_the_adapter_beats_its_base_on_a_family_outside_the_bases_recipe(tmp_path: Path) -> None:
    assert not {new_family.STYLE, new_family.DAMAGE} & {*FAMILIES, *DAMAGES}
    dataset = new_family.build(tmp_path / "data", train=48, held_out=12)
    scores = new_family.measure(dataset, train(new_family.settings(dataset, tmp_path / "run", steps=36)).adapter)
    print(new_family.table(scores))
    case = np.arange(12)
    gain = paired_comparison(scores.base, scores.adapted, case)
    assert gain.low > 0.5
    assert paired_comparison(scores.damaged, scores.base, case).difference == pytest.approx(0, abs=0.5)
