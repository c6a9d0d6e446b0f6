"""The server's routes over HTTP, with clients written by others, and replicas in this process."""

import base64
import json
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ray", reason="./preprocess.sh dev serve installs it")
pytest.importorskip("webuiapi")

import requests
import webuiapi

from canny2image_TRT import hackathon
from cldm.checkpoint import SMALL_MODEL
from serving.listening import KEY
from serving.parameters import load
from serving.whole_prompt import WholePrompt
from tests.local_server import Waiting, serving
from tests.server_client import BIRD, decoded, drawn, post, same, write_lora


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("offered")
    (folder / "loras").mkdir()
    (folder / "checkpoints").mkdir()
    write_lora(folder / "loras" / "style.safetensors", 1.0)
    shutil.copy(SMALL_MODEL, folder / "checkpoints" / "copy.safetensors")
    shutil.copytree(SMALL_MODEL.parent / "tokenizer", folder / "checkpoints" / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def server(folders: Path) -> Iterator[str]:
    shelves = ("--lora-folder", f"{folders}/loras", "--weights-folder", f"{folders}/checkpoints")
    with serving(*shelves, "--weights", str(SMALL_MODEL), "--most-samples", "2") as address:
        yield address


def test_json(server: str, trained: hackathon) -> None:
    response = post(server, prompt="a red bird", seed=3)
    assert response.status_code == 200
    content = response.json()
    assert same(decoded(content["pictures"][0]), drawn(trained, prompt="a red bird", seed=3))
    assert content["seed"] == 3
    stored = load(base64.b64decode(content["pictures"][0]))
    assert (stored["prompt"], stored["seed"], stored["image_resolution"]) == ("a red bird", 3, 64)
    assert content["infotext"].startswith("a red bird, best quality")
    assert 0 <= post(server, seed=-1).json()["seed"] <= 65535


def test_a_form(server: str, trained: hackathon) -> None:
    fields = {"prompt": "a red bird", "seed": "3", "image_resolution": "64", "guess_mode": "true"}
    with BIRD.open("rb") as file:
        response = requests.post(f"{server}/v1/pictures", data=fields, files={"input_image": file}, timeout=60)
    assert response.status_code == 200, response.text
    picture = decoded(response.json()["pictures"][0])
    assert same(picture, drawn(trained, prompt="a red bird", seed=3, guess_mode=True))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"input_image": None}, "input_image: it is missing, expected a picture"),
        ({"input_image": "no base64!"}, "input_image: got text that is no base64"),
        ({"input_image": base64.b64encode(b"GIF89a").decode()}, "input_image: got 6 bytes that are damaged or no"),
        ({"input_image": 3}, "input_image: got 3, expected a picture in base64"),
        ({"scale": "big"}, "scale: got 'big', expected a number"),
        ({"scale": 1e30}, "the latent has values up to"),
        ({"prompt": "x" * 10_001}, "prompt: got 10001 characters"),
        ({"num_samples": 3}, "num_samples: got 3, expected at most 2 on this server"),
        ({"image_resolution": 2048}, "image_resolution: got 6291456 pixels"),
        ({"plan": "/etc/passwd"}, "plan: got '/etc/passwd', expected a name"),
        ({"plan": "7,3"}, "plan"),
        ({"low_threshold": None}, "low_threshold: got None, expected a number"),
        ({"colour": "red"}, "got the field 'colour', expected some of prompt"),
        ({"prompt": "<lora:absent:1>"}, "LoRA: got 'absent', expected one of those offered here: style"),
        ({"prompt": "<lora:style:much>"}, "prompt: got '<lora:style:much>', expected <lora:name:strength>"),
        ({"n_prompt": "<lora:style:1>"}, "n_prompt: got '<lora:style:1>', expected no such tag here"),
    ],
    ids=range(16),
)
def test_a_wrong_value_is_one_sentence(server: str, values: dict[str, Any], sentence: str) -> None:
    response = post(server, **values)
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (422, "invalid")
    assert error["message"].startswith(sentence)
    assert len(error["message"].splitlines()) == 1
    assert "/checkpoints" not in error["message"]


def test_damaged_bodies(server: str) -> None:
    url = f"{server}/v1/pictures"
    for content, kind, status in (
        (b"{", "application/json", 422),
        (b"[" * 100_000, "application/json", 422),
        (b"a=1", "text/plain", 415),
        (b"x", "multipart/form-data; boundary=b", 400),
        (b"x" * (33 * 2**20), "application/json", 413),
    ):
        response = requests.post(url, data=content, headers={"Content-Type": kind}, timeout=60)
        assert response.status_code == status, response.text
        assert response.json()["error"]["message"]
    assert requests.get(f"{server}/absent", timeout=9).json()["error"]["type"] == "not_found"
    assert requests.get(url, timeout=9).status_code == 405


def test_each_client_gets_its_own_picture(server: str, trained: hackathon) -> None:
    calls: list[dict[str, Any]] = [
        {"seed": seed, "prompt": f"a {colour} bird", "scale": 5.0 + seed, "guess_mode": seed % 5 == 0}
        for seed, colour in enumerate(["red", "blue", "green", "yellow"] * 3)
    ]
    with ThreadPoolExecutor(12) as pool:
        made = list(pool.map(lambda call: decoded(post(server, **call).json()["pictures"][0]), calls))
    for call, picture in zip(calls, made, strict=True):
        assert same(picture, drawn(trained, **call)), call
    metrics = requests.get(f"{server}/metrics", timeout=9).text
    assert 'canny2image_batch_size_bucket{le="1.0"}' in metrics
    total, count = (float(metrics.split(f"canny2image_batch_size_{end} ")[1].split()[0]) for end in ("sum", "count"))
    assert total > count, "no batch had more than one request"


def test_the_clients_of_the_webui(server: str, trained: hackathon) -> None:
    api = webuiapi.WebUIApi(baseurl=f"{server}/sdapi/v1", sampler="DDIM", steps=20)
    unit = webuiapi.ControlNetUnit(
        image=Image.open(BIRD), module="canny", model="canny", threshold_a=100, threshold_b=200, pixel_perfect=True
    )
    said: dict[str, Any] = {"prompt": "a red bird", "negative_prompt": "", "cfg_scale": 9, "seed": 3, "eta": 0}
    result = api.txt2img(**said, width=128, height=64, controlnet_units=[unit])
    contest = WholePrompt.contest(np.asarray(Image.open(BIRD).convert("RGB")), image_resolution=64)
    (expected,) = trained.draw(replace(contest, prompt="a red bird", n_prompt="", seed=3))
    assert result.image.size == (128, 64)
    assert same(np.asarray(result.image), expected)
    assert "Negative prompt" in result.info["infotexts"][0]
    assert result.image.info["parameters"] == result.info["infotexts"][0]
    again = api.txt2img(**said, width=128, height=64, controlnet_units=[unit])
    assert same(np.asarray(again.image), np.asarray(result.image))
    lora = api.txt2img(**{**said, "prompt": "a red bird <lora:style:1>"}, width=128, height=64, controlnet_units=[unit])
    assert not same(np.asarray(lora.image), np.asarray(result.image))
    plain = api.txt2img(**said, width=128, height=64, controlnet_units=[unit])
    assert same(np.asarray(plain.image), np.asarray(result.image)), "a LoRA of one request must not reach another"
    assert [one["model_name"] for one in api.get_sd_models()] == ["copy", "model"]
    assert [one["name"] for one in api.get_loras()] == ["style"]
    assert api.get_options()["sd_model_checkpoint"] == "model"
    with pytest.raises(RuntimeError, match="this control image gives 128 x 64"):
        api.txt2img(**said, width=512, height=64, controlnet_units=[unit])
    with pytest.raises(RuntimeError, match="enable_hr: got True, which is not supported here"):
        api.txt2img(**said, width=128, height=64, enable_hr=True, controlnet_units=[unit])
    with pytest.raises(RuntimeError, match="ControlNet: got 0 units, expected one"):
        api.txt2img(**said, width=128, height=64)


def test_weights_change_under_load(server: str, trained: hackathon) -> None:
    expected, statuses, stop = drawn(trained, seed=1), [], threading.Event()

    def client() -> None:
        while not stop.is_set():
            response = post(server, seed=1)
            statuses.append(response.status_code)
            assert same(decoded(response.json()["pictures"][0]), expected)  # both checkpoints have the same weights

    with ThreadPoolExecutor(2) as pool:
        clients = [pool.submit(client) for _ in range(2)]
        for name in ("copy", "model"):
            changed = requests.post(f"{server}/v1/weights", json={"checkpoint": name}, timeout=60)
            assert changed.json()["checkpoint"] == name
        stop.set()
        for one in clients:
            one.result()
    assert set(statuses) == {200}
    refused = requests.post(f"{server}/v1/weights", json={"checkpoint": "../secret"}, timeout=60)
    assert refused.json()["error"]["message"].startswith("checkpoint: got '../secret', expected one of those offered")


def test_a_lora_for_all(server: str, trained: hackathon) -> None:
    expected = drawn(trained, seed=1)
    styled: dict[str, Any] = {"loras": [{"name": "style", "strength": 1}]}
    assert requests.post(f"{server}/v1/weights", json=styled, timeout=60).json()["loras"] == styled["loras"]
    assert not same(decoded(post(server, seed=1).json()["pictures"][0]), expected)
    requests.post(f"{server}/v1/weights", json={"loras": []}, timeout=60)
    assert same(decoded(post(server, seed=1).json()["pictures"][0]), expected)


def test_a_full_queue_and_a_time_limit() -> None:
    options = ("--queue", "2", "--time-limit", "1")
    with serving(*options, replicas=Waiting(), count=1) as server, ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(post, server) for _ in range(2)]
        time.sleep(0.4)
        full = post(server)
        assert full.status_code == 503
        assert int(full.headers["Retry-After"]) >= 1
        assert full.json()["error"]["message"].startswith("the queue is full (2 requests)")
        assert requests.get(f"{server}/healthz", timeout=9).json() == {"status": "alive"}
        assert [one.result().status_code for one in waiting] == [504, 504]


def test_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret")
    with serving(replicas=Waiting(), count=1) as server:
        url = f"{server}/v1/weights"
        assert requests.get(url, timeout=9).status_code == 401
        assert requests.get(url, headers={"Authorization": "Bearer wrong"}, timeout=9).status_code == 401
        assert requests.get(url, headers={"Authorization": "Bearer secret"}, timeout=9).status_code == 200
        assert requests.get(url, auth=("anyone", "secret"), timeout=9).status_code == 200
        assert requests.get(f"{server}/healthz", timeout=9).status_code == 200


def test_head(server: str) -> None:
    response = requests.head(f"{server}/readyz", timeout=9)
    assert (response.status_code, response.text) == (200, "")
    assert requests.head(f"{server}/v1/pictures", timeout=9).status_code == 405


def test_other_names_of_this_machine_are_refused(server: str) -> None:
    """A web page whose name resolves to this machine must not reach a server without a key."""
    response = requests.get(f"{server}/v1/weights", headers={"Host": "evil.example"}, timeout=9)
    assert response.status_code == 403


def test_the_log_has_a_line_per_request(server: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="serving.requests"):
        post(server, seed=1)
        post(server, scale="big")
        requests.get(f"{server}/{'a' * 9000}", headers={"X-Request-Id": ""}, timeout=9)
    good, bad, long = (json.loads(record.message) for record in caplog.records if record.name == "serving.requests")
    assert (good["path"], good["status"], good["pictures"]) == ("/v1/pictures", 200, 1)
    assert {"id", "time", "queue", "generation", "batch", "seconds"} <= good.keys()
    assert (bad["status"], bad["error"]) == (422, "invalid")
    assert len(long["path"]) == 100
    assert len(long["id"]) > 10
