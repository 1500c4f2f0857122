import pytest

from tests.support.made_runs import MadeRun, photo_edit


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real run folder of 12 items: nine clean, one with a stray pixel, one untouched, one dead letter."""
    run = MadeRun(tmp_path_factory.mktemp("small") / "run-1")
    for i in range(9):
        run.add(f"clean-{i}", photo_edit(seed=i))
    run.add("stray", photo_edit(seed=20).with_stray_pixel())
    run.add("untouched", photo_edit(seed=21).untouched())
    run.add_dead("broken", "image.truncated", "broken.jpg: damaged JPEG; export it again")
    return run.write()
