"""Batches without Ray: lists and folders of requests, the folder of results, groups of requests, and options."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from cldm.canny import Picture
from cldm.request import CONTEST
from serving import batch
from serving.batch_job import Job
from serving.batch_list import read_jobs
from serving.batch_outputs import KEY, Outputs
from serving.batch_ray import groups
from serving.parameters import png
from tests.arguments import waves


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with pictures/one.png, two.png (wider) and edges.png (an edge map)."""
    (tmp_path / "pictures").mkdir()
    edges = np.zeros((64, 64), np.uint8)
    edges[20:40, 30] = 255
    for name, picture in (("one", waves(64, 64)), ("two", waves(64, 128)), ("edges", edges)):
        Image.fromarray(picture).save(tmp_path / "pictures" / f"{name}.png")
    return tmp_path


def means(steps: int) -> str:
    """Stand for a runtime whose plan is for 20 steps."""
    if steps != 20:
        raise ValueError(f"plan 19,4 is for 20 steps, but ddim_steps={steps}")
    return "weights and plan"


def write_list(folder: Path, *lines: str | dict[str, Any]) -> Path:
    path = folder / "list.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def read_list(folder: Path, *lines: str | dict[str, Any], **defaults: Any) -> list[Job]:
    return read_jobs(write_list(folder, *lines), CONTEST | {"image_resolution": 64} | defaults, means)


ONE = {"input_image": "pictures/one.png"}


def test_a_folder_gives_one_request_per_picture(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "pictures" / "two.txt").write_text("a red bird\n")
    (folder / "pictures" / "gone.txt").write_text("a caption alone")
    with caplog.at_level("INFO"):
        jobs = {job.name: job for job in read_jobs(folder / "pictures", CONTEST | {"scale": 7.5}, means)}
    assert {name: job.said["prompt"] for name, job in jobs.items()} == {
        "one": "a bird",
        "two": "a red bird",
        "edges": "a bird",
    }
    assert jobs["two"].request().scale == 7.5
    assert jobs["two"].shape == (256, 512, 20)
    assert "gone" in caplog.text


def test_a_list_gives_one_request_per_line(folder: Path) -> None:
    lines = (
        {**ONE, "prompt": "a red bird", "num_samples": 2, "strength": 0.5},
        "",
        {"name": "own edges", "edges": "pictures/edges.png", "input_image": None, "low_threshold": None},
    )
    first, second = read_list(folder, *lines[:2], {**lines[2], "high_threshold": None}, prompt="a blue bird")
    assert (first.name, first.outputs) == ("1", ["1.png", "1_1.png"])
    request = first.request()
    assert (request.prompt, request.strength, request.size) == ("a red bird", 0.5, (64, 64))
    assert (second.name, second.outputs, second.request().prompt) == ("own edges", ["own edges.png"], "a blue bird")
    assert second.request().own_edges is not None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2 is not valid JSON"),
        ("[1]", "line 2 is not a JSON object"),
        ('{"prompt": "a", "prompt": "b"}', "given twice"),
        ({}, "line 2: input_image: got none"),
        ({"input_image": None, "prompt": "a bird"}, "line 2: input_image: got none"),
        ({"input_image": "pictures/none.png"}, "line 2: input_image: .*none.png cannot be read"),
        ({"input_image": "pictures"}, "line 2: input_image: .*not a regular file"),
        ({"input_image": "list.jsonl"}, "line 2: input_image: .*damaged or no picture"),
        ({"input_image": 5}, "line 2: input_image: got 5, expected the path"),
        ({"input_image": "../one.png"}, r"line 2: input_image: got '../one.png', expected a path below"),
        ({"edges": "/etc/one.png"}, "line 2: edges: got '/etc/one.png', expected a path below"),
        ({"edges": "pictures/one.png"}, "line 2: edges: got channels that differ"),
        ({**ONE, "promt": "a"}, "line 2: 'promt': expected only name, input_image, edges, prompt"),
        ({**ONE, "prompt": 5}, "line 2: prompt: got 5, expected a string"),
        ({**ONE, "num_samples": 0}, "line 2: num_samples: got 0, expected 1 to 1024"),
        ({**ONE, "seed": "1"}, "line 2: seed: got '1', expected a whole number"),
        ({**ONE, "eta": None}, "line 2: eta: got None, expected a number"),
        ({**ONE, "ddim_steps": 10}, "line 2: plan 19,4 is for 20 steps, but ddim_steps=10"),
        ({**ONE, "name": 5}, "line 2: name: got 5, expected a file name"),
        ({**ONE, "name": ""}, "line 2: name: got ''"),
        ({**ONE, "name": "a/b"}, "line 2: name: got 'a/b'"),
        ({**ONE, "name": ".a"}, "line 2: name: got '.a'"),
        ({**ONE, "name": "a\nb"}, r"line 2: name: got 'a\\nb'"),
        ({**ONE, "name": "é" * 101}, "line 2: name: got '"),
        ({**ONE, "name": "\ud800"}, r"line 2: name: got '\\ud800'"),
        ({**ONE, "name": "1"}, "line 2: name: '1' would write 1.png, as .*line 1 does"),
        ({**ONE, "name": "1_1"}, "line 2: name: '1_1' would write 1_1.png, as .*line 1 does"),
    ],
)
def test_a_bad_line_is_refused_with_its_number_and_argument(
    folder: Path, line: str | dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        read_list(folder, {**ONE, "num_samples": 2}, line)
    assert str(folder / "list.jsonl") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["none", "empty.jsonl", "empty"])
def test_inputs_without_requests_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty.jsonl").write_text("\n \n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=name):
        read_jobs(tmp_path / name, CONTEST, means)


def test_names_that_differ_in_case_only_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"line 2: name: 'BIRD' would write BIRD.png, as .*line 1"):
        read_list(folder, {**ONE, "name": "bird"}, {**ONE, "name": "BIRD"})


def test_a_picture_that_changed_meanwhile_is_not_drawn(folder: Path) -> None:
    (job,) = read_list(folder, ONE)
    Image.fromarray(waves(64, 128)).save(folder / "pictures" / "one.png")
    with pytest.raises(ValueError, match=r"input_image: .*one.png has changed since the batch began"):
        job.request()


def test_groups_have_one_shape_and_few_pictures(folder: Path) -> None:
    wide = {"input_image": "pictures/two.png"}
    jobs = read_list(folder, ONE, wide, ONE, {**ONE, "num_samples": 5}, ONE, {**wide, "num_samples": 3}, ONE)
    found = [[job.name for job in group] for group in groups(jobs, 4)]
    assert found == [["1", "3"], ["4"], ["5", "7"], ["2", "6"]]


def made(job: Job, key: str, **changes: Any) -> list[bytes]:
    """Return the files of a job, with grey pictures."""
    grey: Picture = np.full((64, 64, 3), 128, np.uint8)
    return [png(grey, job.request(), {KEY: key} | changes)] * job.samples


def test_a_job_is_done_if_all_its_files_have_its_key(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    outputs = Outputs(folder / "out")
    jobs = read_list(folder, {**ONE, "num_samples": 2}, {**ONE, "seed": -1, "num_samples": 2})
    assert outputs.left(jobs) == jobs
    for job in jobs:
        outputs.write(job, made(job, job.key))
    left = outputs.left(jobs)
    assert left in ([], [jobs[1]])  # two draws of a random seed, which are equal once in 65536 times
    (folder / "out" / "1_1.png").unlink()
    assert jobs[0] in outputs.left(jobs)
    outputs.write(jobs[0], made(jobs[0], "other weights"))
    with caplog.at_level("INFO"):
        assert jobs[0] in outputs.left(jobs)
    assert "1.png was made with other arguments, input or weights: drawn again" in caplog.text


@pytest.mark.parametrize(
    "change", [{"seed": 5}, {"prompt": "a"}, {"strength": 0.9}, {"input_image": "pictures/two.png"}]
)
def test_the_key_changes_with_everything_that_matters(folder: Path, change: dict[str, Any]) -> None:
    (before,) = read_list(folder, ONE)
    (after,) = read_list(folder, {**ONE, **change})
    assert before.key != after.key
    (same,) = read_list(folder, {**ONE, "strength": 1, "seed": CONTEST["seed"], "name": "other"})
    assert same.key == before.key


def test_samples_of_different_seeds_are_not_done(folder: Path) -> None:
    outputs = Outputs(folder / "out")
    (job,) = read_list(folder, {**ONE, "seed": -1, "num_samples": 2})
    request = job.request()
    contents = made(job, job.key)
    outputs.write(job, contents[:1] * 2)
    assert outputs.left([job]) == []
    other = next(one for one in iter(lambda: job.request(), None) if one.seed != request.seed)
    grey: Picture = np.full((64, 64, 3), 128, np.uint8)
    outputs.write(job, [png(grey, one, {KEY: job.key}) for one in (request, other)])
    assert outputs.left([job]) == [job]


@pytest.mark.parametrize("content", [b"", b"a text", None, "picture", "cut", "forged"])
def test_a_file_that_no_batch_has_made_is_not_replaced(folder: Path, content: bytes | str | None) -> None:
    (job,) = read_list(folder, ONE)
    file = folder / "out" / "1.png"
    file.parent.mkdir()
    if content is None:
        file.mkdir()
    elif content == "forged":
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("canny2image", json.dumps(CONTEST | {"settings": "none"}))
        Image.fromarray(waves(64, 64)).save(file, pnginfo=chunks)
    elif content == "picture":
        Image.fromarray(waves(64, 64)).save(file)
    else:
        file.write_bytes(made(job, job.key)[0][:-20] if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=r"OUTPUT: .*1.png is there, but no batch has made it"):
        Outputs(folder / "out").left([job])
    assert file.exists()


def test_other_pictures_in_the_output_stay_and_are_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    jobs = read_list(folder, ONE)
    with caplog.at_level("INFO"):
        Outputs(folder / "pictures").left(jobs)
    assert "3 other pictures" in caplog.text


@pytest.mark.parametrize(
    ("inputs", "output"),
    [
        ("pictures", "pictures"), ("pictures", "pictures/out"), ("pictures", "."), ("pictures", "link"),
        ("list.jsonl", "pictures"), ("list.jsonl", "pictures/out"), ("list.jsonl", "."), ("links", "elsewhere"),
    ],
)  # fmt: skip
def test_outputs_among_the_inputs_are_refused(
    folder: Path, inputs: str, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_list(folder, ONE)
    (folder / "link").symlink_to("pictures")
    for name in ("links", "elsewhere"):
        (folder / name).mkdir()
    Image.fromarray(waves(64, 64)).save(folder / "elsewhere" / "one.png")
    (folder / "links" / "one.png").symlink_to("../elsewhere/one.png")
    before = sorted(folder.rglob("*"))
    assert_refused([str(folder / inputs), str(folder / output)], "OUTPUT: .* is, contains or lies in the folder")
    assert sorted(folder.rglob("*")) == before


def assert_refused(arguments: list[str], said: str) -> None:
    with pytest.raises(SystemExit, match=said):
        batch.main([*arguments, "--weights", "random:0"])


def test_a_list_named_like_the_summary_is_not_overwritten(folder: Path) -> None:
    (folder / "out").mkdir()
    plan = folder / "out" / "summary.json"
    plan.write_text((Path(batch.__file__).parents[1] / "models" / "plans" / "small_8.json").read_text())
    arguments = [str(folder / "pictures"), str(folder / "out"), "--plan", str(plan)]
    assert_refused(arguments, "OUTPUT: .*summary.json would overwrite the input")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--plan", "nonsense"], "plan 'nonsense'"),
        (["--plan", "19,4", "--ddim-steps", "10"], "edges.png: plan .*10"),
        (["--vae", "none.pt"], "none.pt"),
        (["--lora", "none.safetensors"], "none.safetensors"),
        (["--image-resolution", "5"], "edges.png: image_resolution: got 5"),
    ],
)
def test_bad_options_are_refused_before_any_work(folder: Path, options: list[str], said: str) -> None:
    assert_refused([str(folder / "pictures"), str(folder / "out"), *options], said)
    assert not (folder / "out").exists()


def test_replicas_are_one_or_more(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        batch.main([str(folder / "pictures"), str(folder / "out"), "--replicas", "0"])
    assert "--replicas: got 0, expected 1 or more" in capsys.readouterr().err
