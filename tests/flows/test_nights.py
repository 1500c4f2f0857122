"""A week of nights over one run folder, and what must be published after each: told from the manifests alone.

The oracle refines with the chain itself, without a worker, a ledger or a plan, and knows only which rows each night's
manifest had, and which nights may publish.
"""

import shutil
import time
from pathlib import Path

import pytest

from flows.steps.batch import ErrorBudgetExceeded
from refine_ops import storage
from refine_ops.config import CanaryLimits, RefineBatchConfig, RefineSettings
from refine_ops.errors import JobError
from refine_ops.job import export, starts, upkeep
from refine_ops.job.launch import Node, NodeVerdict
from refine_ops.job.ledger import read_ledger
from refine_ops.job.planning.remaining import Remaining
from refine_ops.job.run_folder import RunFolder, reopen_run
from refine_ops.report.run_items import open_run
from tests.support.catalogue import Catalogue

pytestmark = pytest.mark.processes


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalogue:
    monkeypatch.setenv("REFINE_TEST_PUBLISHED", str(tmp_path / "written.log"))
    return Catalogue(tmp_path, 24)


@pytest.mark.timeout(600)
def test_a_week_of_nights(shop: Catalogue) -> None:
    shop.night()
    assert shop.published() == shop.expected()
    assert shop.refined == 24

    # A row goes, one is renamed, one photo is taken anew; its old picture is gone from what may be used.
    del shop.rows[0]
    shop.rows[0]["item_id"] = "another-name"
    shop.rows[0]["output"] = "item-0001.png"
    shutil.copy(shop.root / "images/0009.png", shop.root / "images/0005.png")
    shop.night()
    after_second = shop.published()
    assert after_second == shop.expected()
    assert "item-0000.png" not in after_second
    assert shop.refined == 26, "what did not change is not refined again"

    # Killed in mid-work: nothing new may be used, and the next start goes on.
    for row in shop.rows[3:9]:
        row["regions"][0]["box"] = [4, 4, 30, 30]

    def killed(config: RefineBatchConfig, folder: RunFolder, todo: Remaining, *_: object) -> NodeVerdict:
        half = Remaining(todo.positions[:3], 0, 0)
        Node(folder, config, 1, module="tests.support.trivial_worker").run(half)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shop.night(killed)
    assert shop.published() == after_second
    shop.night()
    assert shop.published() == shop.expected()
    assert shop.refined == 29, "three were done before the kill"

    # A night whose canary is refused publishes nothing, and what it refined counts for nothing.
    steady = shop.published()
    shop.rows[12]["regions"][0]["prompt"] = "raise"
    shop.rows[13]["regions"][0]["box"] = [6, 6, 24, 24]
    with pytest.raises(JobError, match="canary failed"):
        shop.night(canary=2, canary_limits=CanaryLimits(max_dead=0.0, max_de00=50.0, max_shift_px=50.0))
    assert shop.published() == steady

    # Too many dead for the budget: nothing new; a start without new deaths publishes what is done.
    with pytest.raises(ErrorBudgetExceeded, match="1 of 2 items of this start are dead"):
        shop.night()
    assert shop.published() == steady
    shop.night()
    assert shop.published() == shop.expected()
    assert "item-0013.png" not in shop.published(), "a dead item may not be used in its old form"

    # A broken export of the manifest changes nothing.
    whole, steady = shop.rows, shop.published()
    shop.rows = whole[:4]
    with pytest.raises(JobError, match=r"no longer names \d+ of \d+ published items .* --set max_removed"):
        shop.night()
    assert shop.published() == steady
    shop.night(limit=2)
    assert shop.published() == steady, "a limited start leaves the rest as it is"
    shop.rows = whole

    # Two at once; a lost file; pictures rolled back; the shop brought up to date.
    other = starts.open_start(str(shop.run), {})
    with pytest.raises(starts.RunInUse):
        shop.night()
    other.close("done")
    victim = next(p for p in (shop.run / "outputs").rglob("item-0020.png"))
    victim.unlink()
    folder, _ = reopen_run(str(shop.run))
    assert [d.name for d in upkeep.check_outputs(folder)[1]] == ["item-0020.png"]
    assert "item-0020.png" not in shop.published()
    shop.night()
    assert shop.published() == shop.expected()
    export.export(str(shop.run), str(shop.root / "shop"))
    files = {p.name: p.read_bytes() for p in (shop.root / "shop").glob("*.png")}
    assert files == shop.published()

    told = starts.read_starts(str(shop.run))
    given, end = told[-1].what, told[0].end
    assert given["manifest"]["sha256"] == storage.sha256(shop.manifest.read_bytes())
    assert given["versions"].keys() == {"refine-ops", "python"}
    assert {name.partition(".")[0] for name in given["parts"]} >= {"settings", "weights", "package"}
    assert end is not None
    assert {name: end[name] for name in ("done", "held", "dead", "left", "skipped")} == {
        "done": 24,
        "held": 0,
        "dead": 0,
        "left": 0,
        "skipped": 0,
    }
    assert all((s.end["device_s"] > 0) == (s.end["done"] > 0) for s in told if s.end is not None and "done" in s.end)
    assert all(s.end["device_s"] > 0 for s in told if s.end is not None and s.exit == "canary")

    ends = [s.exit for s in told]
    assert ends.count("stopped") == 1
    assert ends.count("canary") == 1
    assert ends.count("budget") == 1
    assert None not in ends


@pytest.mark.timeout(300)
def test_a_deadline_publishes_what_is_done_and_leaves_the_rest_to_the_next_start(shop: Catalogue) -> None:
    def for_a_while(config: RefineBatchConfig, folder: RunFolder, todo: Remaining, *_: object) -> NodeVerdict:
        assert config.until is not None
        assert config.until > time.time() + 3000
        first = Node(folder, config, 1, module="tests.support.trivial_worker").run(Remaining(todo.positions[:7], 0, 0))
        over = config.model_copy(update={"until": time.time()})
        rest = Node(folder, over, 1, module="tests.support.trivial_worker").run(Remaining(todo.positions[7:], 0, 0))
        return first.and_then(rest)

    summary = shop.night(for_a_while, deadline_h=1.0)
    assert (summary.done, summary.left) == (7, 17)
    assert len(shop.published()) == 7
    assert shop.night().left == 0
    assert shop.refined == 17, "what the first start did is not done again"
    assert shop.published() == shop.expected()
    assert [s.exit for s in starts.read_starts(str(shop.run))] == ["deadline", "done"]


@pytest.mark.timeout(300)
def test_a_rank_takes_nothing_new_after_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Catalogue(tmp_path, 120)
    monkeypatch.setenv("REFINE_TEST_PUBLISHED", str(tmp_path / "written.log"))
    monkeypatch.setenv("REFINE_TEST_SLEEP_S", "0.5")
    summary = shop.night(deadline_h=8 / 3600)
    assert summary.left > 0
    assert summary.done + summary.left == 120
    assert len(shop.published()) == summary.done, "what was in hand is finished, and no rank died of it"


@pytest.mark.timeout(300)
def test_to_redo_very_much_is_asked_about(shop: Catalogue) -> None:
    shop.night()
    for row in shop.rows[:13]:
        row["regions"][0]["box"] = [4, 4, 30, 30]
    with pytest.raises(JobError, match=r"13 of 24 items .* again \(54.2%\).*Nothing was run.*--set max_redone=0.55"):
        shop.night()
    assert shop.refined == 24
    shop.night(max_redone=0.55)
    assert shop.published() == shop.expected()


@pytest.mark.timeout(300)
def test_an_ill_machine_is_no_poisoned_item(shop: Catalogue) -> None:
    for row in shop.rows:
        row["regions"][0]["prompt"] = "segfault"

    def ill() -> None:
        raise JobError("a GPU of this machine does not answer any more")

    def on_an_ill_machine(config: RefineBatchConfig, folder: RunFolder, todo: Remaining, *_: object) -> NodeVerdict:
        return Node(folder, config, 1, module="tests.support.trivial_worker", examine=ill).run(todo)

    with pytest.raises(JobError, match="does not answer"):
        shop.night(on_an_ill_machine)
    assert read_ledger(str(shop.run / "outcomes"), []).num_rows == 0, "nobody is blamed"


@pytest.mark.timeout(300)
def test_new_weights_or_settings_end_no_night(shop: Catalogue) -> None:
    wider = {"publish": "all", "paste": {"blur_px": 15}}
    new = RefineSettings.model_validate(wider)
    shop.night()
    with pytest.raises(JobError, match=r"(?s)settings.paste.blur_px.*on_new_fingerprint=new-work"):
        shop.night(refine=wider)
    assert len(starts.read_starts(str(shop.run))) == 1, "refused before anything was begun"

    for row in shop.rows[:3]:
        row["regions"][0]["box"] = [4, 4, 30, 30]
    changed = {row["item_id"] for row in shop.rows[:3]}
    shop.night(refine=wider, on_new_fingerprint="new-work")
    assert shop.refined == 24 + 3
    assert shop.published() == shop.expected(other=dict.fromkeys(changed, new))
    blurs = {item.item_id: item.rules.paste.blur_px for item in open_run(str(shop.run)).items()}
    assert {blurs[i] for i in changed} == {15}, "every item is judged by the settings it was made with"
    assert {blurs[i] for i in blurs.keys() - changed} == {11}

    shop.night(refine=wider)
    assert shop.refined == 27, "these are the folder's settings now"
    with pytest.raises(JobError, match="another fingerprint"):
        shop.night()

    redone = set(changed)
    for night in (1, 2, 3):
        shop.night(refine=wider, on_new_fingerprint="redo", max_new=9)
        redone |= {row["item_id"] for row in shop.rows[: 3 + 9 * night]}
        assert shop.published() == shop.expected(other=dict.fromkeys(redone, new))
    assert shop.refined == 27 + 21, "nothing twice, and at most nine in a start"
    assert shop.published() == shop.expected(new)
