"""Whatever is typed wrongly ends as one sentence that says what to do, with the exit code the README gives it."""

import json
import shlex
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.cli.main import main

pytestmark = pytest.mark.processes

ROW = {"item_id": "a", "image": "photo.png", "box": [50, 50, 90, 90], "prompt": "x"}
IMAGE = "image photo.png --box 1,2,30,40"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, photo: np.ndarray) -> Path:
    """What people have lying about: pictures, files that are none, manifests good and bad, settings."""
    folder = tmp_path_factory.mktemp("site")
    small = Image.fromarray(np.ascontiguousarray(photo[40:200, 150:330]))
    for name in ("photo.png", "photo.jpg", "a.gif", "a.bmp", "hidden", "grüße ü.png"):
        small.save(folder / name, format=None if "." in name else "PNG")
    small.crop((0, 0, 80, 60)).save(folder / "logo.png")
    Image.new("L", small.size).save(folder / "black.png")
    (folder / "cut.png").write_bytes((folder / "photo.png").read_bytes()[:900])
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    (folder / "latin.csv").write_bytes("item_id,image\nä,a.png\n".encode("latin-1"))
    (folder / "folder").mkdir()
    rows = {
        "m.jsonl": ROW,
        "typo.jsonl": {**ROW, "promt": "y"},
        "nobox.jsonl": {k: v for k, v in ROW.items() if k != "box"},
        "http.jsonl": {**ROW, "image": "https://x.org/a.png"},
        "gone.jsonl": {**ROW, "image": "gone.png"},
        "home.jsonl": {**ROW, "image": "~/a.png"},
    }
    texts = {name: json.dumps(row) + "\n" for name, row in rows.items()}
    texts |= {"list.json": json.dumps([ROW]), "broken.jsonl": "{nope\n", "empty.jsonl": "", "empty.jpg": ""}
    texts |= {
        "text.jpg": "hello",
        "bad.yaml": "a: [\n",
        "list.yaml": "- a\n",
        "many.json": '{"worker": {"processes": 0}}',
    }
    texts |= {"head.csv": "item_id,image,box,prompt\n", "not.parquet": "PAR1 nonsense", "decisions.json": "{}"}
    for name, text in texts.items():
        (folder / name).write_text(text)
    return folder


WRONG = [
    ("imag photo.png", 2, "Did you mean 'image'?"),
    ("--nosuch", 2, "see refine-ops --help"),
    ("image", 2, "Missing argument 'picture'; see refine-ops image --help"),
    ("image photo.png", 2, "mark one region: --box x0,y0,x1,y1"),
    ("image photo.png --box", 2, "requires an argument"),
    ("image photo.png --bx 1,2,30,40", 2, "Possible options: --box"),
    ("image photo.png photo.jpg --box 1,2,30,40", 2, "unexpected extra argument(s) (photo.jpg); see"),
    ("image gone.png --box 1,2,30,40", 1, "no such file; check the path"),
    ("image folder --box 1,2,30,40", 1, "is a folder, expected a file"),
    ("image C:/photos/a.png --box 1,2,30,40", 1, "looks like a Windows path"),
    ("image '~/a.png' --box 1,2,30,40", 1, "'~' is not expanded here: write the whole path"),
    ("image https://x.org/a.png --box 1,2,30,40", 1, "use a local path, file:// or s3://"),
    ("image s3://shop --box 1,2,30,40", 1, "write s3://bucket/key"),
    ("image empty.jpg --box 1,2,30,40", 1, "0 bytes; upload it again"),
    ("image text.jpg --box 1,2,30,40", 1, "supported: JPEG"),
    ("image cut.png --box 1,2,30,40", 1, "export it again"),
    ("image a.gif -o b.gif --box 1,2,30,40", 2, "expected a name ending in"),
    ("image phone.heic --box 1,2,30,40", 1, "damaged HEIF"),
    ("image photo.png --box 310,220,210,80", 1, "not x, y, width, height"),
    ("image photo.png --box 1,2,30", 1, "expected 4 whole numbers x0, y0, x1, y1"),
    ("image photo.png --box -5,2,30,40", 1, "begins outside the image; clip it"),
    ("image photo.png --box 1,2,3000,40", 1, "leaves the 180 x 160 image; clip it"),
    ("image photo.png --mask logo.png", 1, "masks must match"),
    ("image photo.png --mask photo.png", 1, "no black-and-white mask"),
    ("image photo.png --mask black.png", 1, "nothing is marked"),
    ("image photo.png --scribble '1;2'", 2, "expected points 'x,y x,y ...' in pixels"),
    ("image photo.png --scribble '1,2 30,40' --width -3", 1, "expected 0 < px <= 4096"),
    (f"{IMAGE} --mask photo.png", 2, "mark one region"),
    (f"{IMAGE} --reference text.jpg", 1, "text.jpg: not an image"),
    (f"{IMAGE} --reference folder", 1, "a folder without pictures"),
    (f"{IMAGE} --prompt ''", 1, "say what to refine"),
    (f"{IMAGE} --seed x", 2, "valid integer"),
    (f"{IMAGE} --model nosuch", 2, "is not a preset (tiny, "),
    (f"{IMAGE} --model folder", 2, "model_index.json"),
    (f"{IMAGE} --model Qwen/Qwen-Image-Edit", 2, "set allow_hub (--allow-hub) to download it"),
    (f"{IMAGE} --adapter gone.safetensors", 2, "set `registry` too"),
    (f"{IMAGE} -o photo.png", 2, "sources are never overwritten, give another name"),
    (f"{IMAGE} -o out.gif", 2, "expected a name ending in one of .jpg"),
    (f"{IMAGE} -o out.jpg", 2, "the picture is png, name it *.png"),
    (f"{IMAGE} --set refine.pastel=1", 2, "did you mean 'paste'?"),
    ("run m.jsonl --out r --set publish=all", 2, "did you mean 'refine.publish'?"),
    (f"{IMAGE} --set refine", 2, "expected name=value"),
    (f"{IMAGE} --config gone.yaml", 2, "settings file gone.yaml: No such file"),
    (f"{IMAGE} --config bad.yaml", 2, "neither JSON nor YAML"),
    (f"{IMAGE} --config latin.csv", 2, "neither JSON nor YAML"),
    (f"{IMAGE} --config list.yaml", 2, "expected a mapping of settings, got list"),
    (f"{IMAGE} --config many.json", 2, "worker.processes: Input should be greater than or equal to 1"),
    ("check", 2, "Missing argument 'manifest'"),
    ("check gone.csv", 2, "gone.csv: no such file"),
    ("check empty.jsonl", 2, "no rows; set allow_empty=true"),
    ("check head.csv", 2, "no rows"),
    ("check broken.jsonl", 2, "line 1: not JSON"),
    ("check list.json", 2, "JSON Lines have one object a line"),
    ("check photo.png", 2, "expected a name ending in .parquet, .jsonl or .csv"),
    ("check not.parquet", 2, "not a readable Parquet file"),
    ("check latin.csv", 2, "save the file as 'CSV UTF-8'"),
    ("check typo.jsonl", 2, "did you mean 'prompt'?"),
    ("check nobox.jsonl", 1, "expected one of box, mask, scribble"),
    ("check http.jsonl", 1, "scheme 'https' is not read"),
    ("check gone.jsonl --open", 1, "no such file"),
    ("check home.jsonl --open", 1, "'~' is not expanded"),
    ("check m.jsonl --model nosuch", 2, "is not a preset"),
    ("check m.jsonl --sheet folder", 2, "Is a directory"),
    ("run", 2, "Missing argument 'manifest'"),
    ("run photo.png --plan-only", 2, "expected a name ending in"),
    ("run m.jsonl --plan-only --price -5", 2, "greater than or equal to 0"),
    ("run m.jsonl --limit 0", 2, "limit: Input should be greater than or equal to 1"),
    ("run m.jsonl --error-budget 7", 2, "error_budget: Input should be less than or equal to 1"),
    ("run m.jsonl --output-format jpg", 2, "'source', 'png' or 'webp-lossless'"),
    ("run m.jsonl --out photo.png", 2, "is a file, expected a folder"),
    ("run m.jsonl --out r --adapter current --registry folder", 2, "no adapter was promoted yet"),
    ("demo --out photo.png", 2, "choose another folder by --out"),
    ("starts gone", 2, "is not a run folder"),
    ("export folder", 2, "give either --to TARGET or --list"),
    ("export folder --list", 2, "has published nothing yet"),
    ("verify folder", 2, "is not a run folder"),
    ("rollback gone", 2, "Missing option '--to'"),
    ("prune gone", 2, "is not a run folder"),
    ("review apply gone.json folder", 2, "no such file"),
    ("review apply decisions.json folder", 2, "schema: Field required"),
    ("review apply decisions.json folder --rejected maybe", 2, "expected 'redo' or 'exclude'"),
    ("report", 2, "give exactly one of runs, folders (--before, --after) and source (--from)"),
    ("report --before folder", 2, "--before and --after go together"),
    ("report --before folder --after folder", 2, "two folders need `out` (--out)"),
    ("eval gone.yaml", 2, "settings file gone.yaml: No such file"),
    ("eval nosuch", 2, "No such command 'nosuch'"),
    ("eval compare gone folder", 2, "no such file"),
    ("eval build-cases gone --out c", 2, "annotations.jsonl: no such file"),
    ("eval vae-crop --model nosuch --out v", 2, "give a local checkpoint"),
    ("train", 2, "dataset: not given, and there is no default"),
    ("train list.yaml", 2, "expected a mapping of settings"),
    ("build-dataset --source nosuch --out d", 2, "'synthetic', 'manifest'"),
    ("build-dataset --source synthetic --count 0 --out d", 2, "greater than or equal to 1"),
    ("detect folder --find hands", 2, "'text', 'like'"),
    ("detect gone", 2, "holds no image"),
    ("detect folder --like gone", 2, "holds no picture"),
    ("detect folder --out folder", 2, "out is the source itself"),
    ("detect folder --only broken", 2, "'all' or 'damaged'"),
    ("adapters list", 2, "Missing option '--registry'"),
    ("adapters show v1 --registry folder", 2, "no adapter version 'v1'"),
    ("adapters rollback --registry folder", 2, "nothing to roll back to"),
]


def run(typed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code, and everything that was printed."""
    monkeypatch.setattr(sys, "argv", ["refine-ops", *shlex.split(typed)])
    capsys.readouterr()
    code, on_sigterm = 0, signal.getsignal(signal.SIGTERM)
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        signal.signal(signal.SIGTERM, on_sigterm)
    return code, "".join(capsys.readouterr())


@pytest.mark.parametrize(("typed", "code", "said"), WRONG, ids=[typed for typed, _, _ in WRONG])
def test_a_wrong_use_ends_in_a_sentence_that_says_what_to_do(
    site: Path,
    typed: str,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(site)
    before = sorted(site.iterdir())
    ended, printed = run(typed, monkeypatch, capsys)
    assert (ended, said in printed) == (code, True), printed
    assert "Traceback" not in printed
    assert sorted(site.iterdir()) == before, "nothing is left behind"


@pytest.mark.parametrize("typed", ["", "review", "eval", "adapters"])
def test_a_command_of_commands_shows_what_there_is_and_no_empty_message(
    typed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed = run(typed, monkeypatch, capsys)
    assert code == 2
    assert "Usage: " in printed
    assert "refine-ops: " not in printed
