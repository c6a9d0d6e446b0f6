import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

import cldm.base_pictures
import cldm.reference
import compute_score
from cldm.request import CONTEST
from files import locked
from plans.files import PLANS
from scoring import pictures
from scoring.outputs import Outputs
from scoring.pictures import DRAWN_BIRDS, Picture, find_pictures
from scoring.report import Report

ROOT = Path(compute_score.__file__).parent
NAMES = ("bird_2", "bird_10")
FILES = [
    "score.json", "contact_sheet.png",
    *(f"{folder}{name}.jpg" for folder in ("", "base/") for name in NAMES),
    *(f"shown/{name}_{kind}.png" for name in NAMES for kind in ("input", "canny", "base", "candidate")),
]  # fmt: skip


class ReferenceAsked(Exception):
    """Raised for a base picture that is not in the cache."""


def ask(*_: object) -> list[Picture]:
    raise ReferenceAsked


def arguments(folder: Path, *more: str) -> list[str]:
    """Return the arguments of a short run from `folder`/pictures to `folder`/out; `more` overrides them."""
    return [
        *("--pictures", str(folder / "pictures"), "--out", str(folder / "out"), "--cache", str(folder / "cache")),
        *("--weights", "random:0"),
        *("--image-resolution", "64", "--plan", "19,4", "--ddim-steps", "20", "--device", "cpu", *more),
    ]


def run(folder: Path, *more: str) -> Report:
    return compute_score.run(compute_score.parse_arguments(arguments(folder, *more)))


def write_pictures(folder: Path) -> None:
    (folder / "pictures").mkdir()
    rows, columns = np.mgrid[:64, :64]
    for i, name in enumerate(NAMES):
        channels = [np.sin(rows / (5 + i)), np.cos(columns / 7), np.sin((rows + columns) / 9)]
        picture = (127 + 100 * np.stack(channels, axis=-1)).astype(np.uint8)
        Image.fromarray(picture).save(folder / "pictures" / f"{name}.png")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Report]]:
    """Yield the folder and the report of one complete run; the folder also has the cache of base pictures."""
    folder = tmp_path_factory.mktemp("score")
    write_pictures(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scoring.inception.MODELS", folder)  # seeded weights even if the real ones are installed
        patch.setattr("torch.hub.get_dir", lambda: str(folder))
        yield folder, run(folder)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    write_pictures(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "bird.png").write_bytes(b"\x89PNG not really")
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "link").symlink_to("pictures")
    (tmp_path / "blocked" / "contact_sheet.png").mkdir(parents=True)
    for name in ("other", "linked"):
        (tmp_path / name).mkdir()
    shutil.copy(PLANS / "small_8.json", tmp_path / "other" / "score.json")
    (tmp_path / "linked" / "bird_2.jpg").symlink_to("../pictures/bird_2.png")
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked" / ".compute_score.lock").hardlink_to(tmp_path / "pictures" / "bird_2.png")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "left").mkdir()
    shutil.copy(PLANS / "small_8.json", tmp_path / "left" / ".score.json.abcdefgh.tmp")
    (tmp_path / "left" / "plan.json").symlink_to(".score.json.abcdefgh.tmp")
    return tmp_path


def test_all_files_are_written(finished: tuple[Path, Report]) -> None:
    out = finished[0] / "out"
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()) == sorted(FILES)
    for name in FILES[1:]:
        with Image.open(out / name) as picture:
            assert picture.size == (64, 64) or name == "contact_sheet.png"


def test_json_is_complete(finished: tuple[Path, Report]) -> None:
    data = json.loads((finished[0] / "out" / "score.json").read_text())
    assert data["metric"] == "PD*"
    assert "leaderboard_score" not in data
    assert [picture["name"] for picture in data["pictures"]] == list(NAMES)
    numbers = {"PD*", "ssim", "psnr_db", "latency_ms"}
    assert all(set(picture) == {"name", *numbers} for picture in data["pictures"])
    assert set(data["means"]) == numbers
    assert data["means"]["PD*"] > 0, "two evaluations gave the same pictures as twenty"
    settings = {"weights": "random:0", "architecture": "small", "plan": "19,4", "ddim_steps": 20, "prompt": "a bird"}
    assert data["settings"].items() >= settings.items()
    assert data["device"].startswith("CPU")
    assert data == finished[1].as_json()


def test_contest_files_have_red_and_blue_swapped_and_shown_files_do_not(finished: tuple[Path, Report]) -> None:
    """cv2.imwrite expects BGR, so a viewer shows the contest's RGB data with red and blue swapped."""
    for jpeg, shown in (("bird_2.jpg", "bird_2_candidate.png"), ("base/bird_2.jpg", "bird_2_base.png")):
        with Image.open(finished[0] / "out" / jpeg) as one, Image.open(finished[0] / "out" / "shown" / shown) as other:
            swapped, straight = np.array(one, np.int16), np.array(other, np.int16)
        assert np.abs(swapped[:, :, ::-1] - straight).mean() < 0.7 * np.abs(swapped - straight).mean()


def test_base_pictures_come_from_the_cache(finished: tuple[Path, Report], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, report = finished
    monkeypatch.setattr(cldm.base_pictures, "reference_pictures", ask)
    again = run(folder, "--out", str(folder / "again"))
    for name in NAMES:
        assert (folder / "again" / "base" / f"{name}.jpg").read_bytes() == (
            folder / "out" / "base" / f"{name}.jpg"
        ).read_bytes()
    assert again.mean_pd == report.mean_pd


def test_random_seed_is_the_same_for_bases_and_candidates(
    finished: tuple[Path, Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = finished
    report = run(folder, "--seed", "-1", "--plan", "all", "--ddim-steps", "2", "--out", str(folder / "drawn"))
    assert 0 <= report.settings["seed"] <= 65535
    assert report.mean_psnr > 40, "base and candidate used different seeds"


def test_base_pictures_have_the_prompt_syntax(finished: tuple[Path, Report], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = finished
    two = ("--prompt-syntax", "webui", "--prompt-chunks", "2", "--prompt", "a (red:3) bird BREAK sky")
    report = run(folder, *two, "--plan", "all", "--ddim-steps", "2", "--out", str(folder / "webui"))
    assert report.mean_psnr > 40, "base and candidate read the prompt differently"
    assert report.settings["prompt_syntax"] == "webui, 2 chunks"


@pytest.mark.parametrize(
    "change",
    [
        ("--prompt", "a hand"),
        ("--a-prompt", "bad"),
        ("--n-prompt", "bad"),
        ("--image-resolution", "128"),
        ("--ddim-steps", "10", "--plan", "ten"),
        ("--guess-mode",),
        ("--strength", "0.5"),
        ("--scale", "4"),
        ("--seed", "1"),
        ("--eta", "0.5"),
        ("--low-threshold", "10"),
        ("--high-threshold", "300"),
        ("--weights", "random:1"),
        ("--prompt-syntax", "webui"),
        ("--prompt-syntax", "webui", "--prompt-chunks", "2"),
    ],
    ids=lambda change: change[0],
)
def test_base_pictures_depend_on_every_argument(
    finished: tuple[Path, Report], change: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cldm.base_pictures, "reference_pictures", ask)
    monkeypatch.setattr(compute_score, "load_inception", lambda *_: None)
    with pytest.raises(ReferenceAsked):
        run(finished[0], *change)


def test_base_pictures_depend_on_the_picture(finished: tuple[Path, Report], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = finished[0] / "other"
    folder.mkdir()
    with Image.open(finished[0] / "pictures" / "bird_2.png") as picture:
        picture.rotate(180).save(folder / "bird_2.png")
    monkeypatch.setattr(cldm.base_pictures, "reference_pictures", ask)
    monkeypatch.setattr(compute_score, "load_inception", lambda *_: None)
    with pytest.raises(ReferenceAsked):
        run(finished[0], "--pictures", str(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--pictures", "{}/empty"), "{}/empty contains no picture"),
        (("--pictures", "{}/absent"), "{}/absent is not a folder"),
        (("--pictures", "{}/file"), "{}/file is not a folder"),
        (("--pictures", "{}/damaged"), "{}/damaged/bird.png"),
        (
            ("--out", "{}/file/out"),
            "cannot be written (Not a directory); a file is in its place or above it: choose another folder",
        ),
        (("--inception", "{}/absent.pth"), "{}/absent.pth does not exist; expected the weights"),
        (("--weights", "{}/absent.pth"), "{}/absent.pth does not exist: give"),
        (("--weights", "{}/empty"), "no weights in {}/empty (it holds no files): expected"),
        (("--weights", "{}/file", "--architecture", "small"), "{}/file cannot be read"),
        (("--weights", "random:x"), "'random:x': expected random:SEED"),
        (("--architecture", "sd16"), "unknown architecture 'sd16': expected one of"),
        (("--plan", "4,19"), "plan [4, 19]: expected"),
        (("--backend", "fast"), "backend 'fast': expected"),
        (("--precision", "fp16"), "precision 'fp16' needs a CUDA device"),
        (("--device", "tpu"), "device 'tpu': expected"),
        (("--prompt-syntax", "compel"), "prompt_syntax 'compel': expected plain or webui"),
        (("--prompt-chunks", "2"), "prompt_chunks: got 2 with prompt_syntax plain"),
        (("--ddim-steps", "9"), "ddim_steps: 9 puts its last timestep at 1000"),
        (("--ddim-steps", "0"), "ddim_steps: got 0, expected"),
        (("--scale", "nan"), "scale: got nan, expected a finite number"),
        (("--seed", "-2"), "seed: got -2, expected"),
        (("--image-resolution", "16"), "image_resolution: got 16, expected 64 to 4096"),
        # Found before any picture is generated.
        (("--plan", "8", "--ddim-steps", "10"), "plan 8 is for 20 steps, but ddim_steps=10 gives 10"),
        (("--plan", "{}/absent.json"), "plan {}/absent.json cannot be read"),
        (("--strength", "1e39"), "strength: got 1e+39, expected a finite number"),
        (("--low-threshold", "inf"), "low_threshold: got inf, expected a finite number"),
        (("--lora", "{}/absent"), "{}/absent does not exist"),
        (("--lora", "{}/file"), "{}/file cannot be read"),
        (("--embedding", "{}/absent.pt"), "{}/absent.pt does not exist"),
        (("--backend", "inductor", "--image-resolution", "256"), "; build them with python -m build"),
        (("--prompt-syntax", "webui", "--prompt", "(a:2000)"), "2000"),
        (
            ("--out", "{}/pictures"),
            "--out: {}/pictures is, contains or lies in the folder of the pictures, {}/pictures",
        ),
        (("--out", "{}/pictures/deep/er"), "lies in the folder of the pictures"),
        (("--out", "{}"), "lies in the folder of the pictures"),
        (("--out", "{}/link/more"), "lies in the folder of the pictures"),
        (("--out", str(DRAWN_BIRDS)), f"contains or lies in the folder of the pictures, {DRAWN_BIRDS}"),
        (("--out", "{}/blocked"), "{}/blocked/contact_sheet.png cannot be written (it is a folder)"),
        (
            ("--out", "{}/other", "--plan", "{}/other/score.json"),
            "/other/score.json would overwrite the input {}/other/",
        ),
        (("--out", "{}/locked"), "/locked/.compute_score.lock would overwrite the input {}/pictures/bird_2.png"),
        (("--out", "{}/circle"), "{}/circle"),
        (
            ("--out", "{}/left", "--plan", "{}/left/plan.json"),
            "--out: {}/left/score.json would overwrite the input {}/left/plan.json",
        ),
        (("--out", "{}/linked"), "--out: {}/linked/bird_2.jpg would overwrite the input {}/pictures/bird_2.png"),
        (("--cache", "{}/file"), "above it: choose another folder, with --cache FOLDER or CANNY2IMAGE_CACHE"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_prints_one_sentence(
    inputs: Path,
    change: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    filled = [word.format(inputs) for word in change]
    monkeypatch.setattr(sys, "argv", ["compute_score.py", *arguments(inputs, *filled)])
    monkeypatch.setattr(cldm.base_pictures, "reference_pictures", ask)
    before = {path: path.read_bytes() for path in inputs.rglob("*") if path.is_file()}
    if "--inception" not in change:
        monkeypatch.setattr(compute_score, "load_inception", lambda *_: None)
    assert compute_score.main() == 2
    captured = capfd.readouterr()
    (line,) = [line for line in captured.err.splitlines() if line and "base pictures:" not in line]  # not tqdm's bar
    assert line.startswith("compute_score.py: ")
    assert message.replace("{}", str(inputs)) in line
    assert captured.out == ""
    assert {path: path.read_bytes() for path in inputs.rglob("*") if path.is_file()} == before


def test_a_failed_run_keeps_the_last_score(inputs: Path) -> None:
    (inputs / "out").mkdir()
    (inputs / "out" / "score.json").write_text('{"metric": "PD"}')
    with pytest.raises(ValueError, match="backend 'fast'"):
        run(inputs, "--backend", "fast")
    assert (inputs / "out" / "score.json").read_text() == '{"metric": "PD"}'


def test_two_runs_do_not_write_to_one_folder(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cldm.base_pictures, "reference_pictures", ask)
    with (
        locked(inputs / "out" / ".compute_score.lock", ""),
        pytest.raises(OSError, match=r"lock is locked by process \d+ on .+: wait until that has ended, or choose anot"),
    ):
        run(inputs)


def test_the_default_pictures_are_not_overwritten(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "CONTEST_FOLDER", inputs / "pictures")
    words = [*arguments(inputs)[2:], "--out", str(inputs)]
    with pytest.raises(ValueError, match="contains or lies in the folder of the pictures"):
        compute_score.run(compute_score.parse_arguments(words))


def test_the_cache_can_be_elsewhere(finished: tuple[Path, Report], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, report = finished
    assert len(list((folder / "cache" / "base_pictures").iterdir())) >= len(NAMES)
    monkeypatch.setattr(cldm.base_pictures, "reference_pictures", ask)
    monkeypatch.setattr(cldm.base_pictures, "ROOT", folder / "pictures" / "bird_2.png")  # as if it were read-only
    words = arguments(folder, "--out", str(folder / "variable"))
    del words[words.index("--cache") : words.index("--cache") + 2]
    options = compute_score.parse_arguments(words)
    with pytest.raises(OSError, match=r"bird_2\.png/\.cache/base_pictures cannot be written .* or CANNY2IMAGE_CACHE$"):
        compute_score.run(options)
    monkeypatch.setenv("CANNY2IMAGE_CACHE", str(folder / "cache"))
    assert compute_score.run(options).mean_pd == report.mean_pd


def test_ctrl_c_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(_: object) -> Report:
        raise KeyboardInterrupt

    monkeypatch.setattr(compute_score, "run", stopped)
    monkeypatch.setattr(sys, "argv", ["compute_score.py"])
    assert compute_score.main() == 130
    said = capsys.readouterr().err
    assert said.startswith("compute_score.py: stopped; results are complete only if there is a score.json; the next")
    assert said.count("\n") == 1


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "compute_score.py"), *words], cwd="/", capture_output=True, text=True, check=False
    )


def test_the_command(tmp_path: Path) -> None:
    """From another folder, with white edge maps and a long prompt: each warning is printed once."""
    write_pictures(tmp_path)
    (tmp_path / "pictures" / "bird_10.png").unlink()
    Image.new("L", (64, 64), 255).save(tmp_path / "pictures" / "bird_2.png")
    done = command(*arguments(tmp_path, "--edges", "--prompt", "bird " * 100))
    assert done.stderr.count("looks like black edges on white") == 1
    assert done.stderr.count("tokens") == 1, done.stderr
    assert done.returncode == 0, done.stderr
    assert "bird_2" in done.stdout
    assert f"Results in {tmp_path / 'out'}: score.json, contact_sheet.png" in done.stdout
    assert json.loads((tmp_path / "out" / "score.json").read_text())["pictures"][0]["name"] == "bird_2"
    assert done.stderr.count("weights: random:0 (small, given)") == 1, "expected one log line on the weights"


def test_the_command_fails_with_one_sentence(tmp_path: Path) -> None:
    done = command(*arguments(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"compute_score.py: pictures: {tmp_path}/pictures is not a folder")
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def no_contest_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "CONTEST_FOLDER", tmp_path / "absent")


@pytest.mark.usefixtures("no_contest_folder")
def test_eight_drawn_birds_by_default() -> None:
    found = find_pictures()
    assert list(found) == [f"bird_{i}" for i in range(1, 9)]
    assert {(p.dtype, p.shape) for p in found.values()} == {(np.dtype(np.uint8), (256, 384, 3))}


def test_contest_folder_is_preferred_to_the_birds(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "CONTEST_FOLDER", inputs / "pictures")
    assert list(find_pictures()) == list(NAMES)


def test_pictures_are_sorted_by_number(inputs: Path) -> None:
    for name in ("bird_1.JPG", "bird²_3.png", "notes.txt"):
        shutil.copy(inputs / "pictures" / "bird_2.png", inputs / "pictures" / name)
    assert list(find_pictures(inputs / "pictures")) == ["bird_1", "bird_2", "bird²_3", "bird_10"]


def test_two_pictures_with_the_same_name_are_rejected(inputs: Path) -> None:
    picture: Any = cv2.imread(str(inputs / "pictures" / "bird_2.png"))
    cv2.imwrite(str(inputs / "pictures" / "bird_2.jpg"), picture)
    with pytest.raises(ValueError, match=r"bird_2"):
        find_pictures(inputs / "pictures")


def test_settings_include_graph_and_evaluations(finished: tuple[Path, Report]) -> None:
    settings = json.loads((finished[0] / "out" / "score.json").read_text())["settings"]
    assert settings["graph"] == "no graph: the CPU has none"
    assert settings["evaluates"] == "2 of 20 steps"
    assert settings.keys() >= CONTEST.keys() - {"num_samples"}
    assert settings["scale"] == CONTEST["scale"]


def test_summaries_of_an_earlier_run_go_before_its_pictures(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    names = ("score.json", "contact_sheet.png", "timeline.png", "other.json")
    for name in names:
        (tmp_path / name).touch()
    outputs.remove_summaries()
    assert [path.name for path in tmp_path.iterdir()] == ["other.json"]


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compute_score.py", "--weights", "missing.pth", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", words)
    assert compute_score.main() == 2
    said = capsys.readouterr().err
    assert "checkpoint missing.pth does not exist" in said
    assert "Traceback" not in said
    monkeypatch.setattr(sys, "argv", [*words, "--debug"])
    with pytest.raises(ValueError, match=r"checkpoint missing\.pth does not exist"):  # Python prints its traceback
        compute_score.main()
