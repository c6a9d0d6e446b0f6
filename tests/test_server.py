"""The server with two replicas of Ray Serve on the CPU."""

import base64
import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests
from PIL import Image

from canny2image_TRT import hackathon
from cldm.checkpoint import SMALL_MODEL
from tests.arguments import GOOD, Picture, process, waves
from tests.test_hackathon_loras import write_lora

pytest.importorskip("ray", reason="./preprocess.sh serve installs the server's packages")
pytest.importorskip("webuiapi", reason="./preprocess.sh dev installs the clients of the server")
pytest.importorskip("fastapi", reason="./preprocess.sh serve installs the server's packages")

import ray
import webuiapi

from serving.options import parse
from serving.server import start, usable_port

KEY = "a key"
HEADERS = {"Authorization": f"Bearer {KEY}"}
ARGUMENTS = {name: value for name, value in GOOD.items() if name != "input_image"}
WIDE = 3  # grey levels; process_many rounds differently for another batch size


def base64_png(picture: Picture) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    loras, checkpoints = tmp_path_factory.mktemp("loras"), tmp_path_factory.mktemp("checkpoints")
    write_lora(loras / "red.safetensors", 4, "")
    (checkpoints / "other.safetensors").write_bytes(Path(SMALL_MODEL).read_bytes())
    port = str(usable_port("127.0.0.1", 0))
    folders = ["--lora-folder", str(loras), "--checkpoint-folder", str(checkpoints)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CANNY2IMAGE_API_KEY", KEY)
        ray.init("local", num_cpus=4, object_store_memory=100 * 2**20, include_dashboard=False)
        try:
            start(parse(["--weights", str(SMALL_MODEL), "--plan", "19,4", "--replicas", "2", "--queue", "40",
                         "--most-bytes", "1000000", "--port", port, *folders]))  # fmt: skip
            yield f"http://127.0.0.1:{port}"
        finally:
            ray.serve.shutdown()
            ray.shutdown()


def post(url: str, **changes: Any) -> requests.Response:
    body = {"input_image": base64_png(waves(64, 64)), **ARGUMENTS, **changes}
    return requests.post(f"{url}/v1/pictures", json=body, headers=HEADERS, timeout=60)


def picture_of(response: requests.Response) -> Picture:
    assert response.status_code == 200, response.text
    return np.array(Image.open(io.BytesIO(base64.b64decode(response.json()["pictures"][0]))))


def near(one: Picture, other: Picture) -> bool:
    return bool((np.abs(one.astype(int) - other.astype(int)) <= WIDE).all())


def test_many_clients_get_their_own_pictures(url: str, trained: hackathon) -> None:
    with ThreadPoolExecutor(32) as pool:
        made = list(pool.map(lambda seed: picture_of(post(url, seed=seed)), range(32)))
    expected = [process(trained, seed=seed)[0] for seed in range(32)]
    assert all(near(one, other) for one, other in zip(made, expected, strict=True))
    assert not near(expected[0], expected[1])


def test_multipart_state_and_metrics(url: str, trained: hackathon) -> None:
    files = {"input_image": ("x.png", base64.b64decode(base64_png(waves(64, 64))))}
    fields = {name: str(value).lower() if value is False else value for name, value in ARGUMENTS.items()}
    response = requests.post(f"{url}/v1/pictures", files=files, data=fields, headers=HEADERS, timeout=60)
    assert near(picture_of(response), process(trained)[0])
    assert requests.get(f"{url}/healthz", timeout=9).status_code == 200
    assert requests.get(f"{url}/readyz", timeout=9).json() == {"status": "ready", "replicas": 2, "expected": 2}
    text = requests.get(f"{url}/metrics", headers=HEADERS, timeout=9).text
    assert 'canny2image_seconds_count{stage="generation"}' in text
    sent = requests.get(f"{url}/healthz", headers={"X-Request-Id": "mine"}, timeout=9)
    assert sent.headers["X-Request-Id"] == "mine"


def test_errors_are_typed(url: str) -> None:
    def error(response: requests.Response) -> tuple[int, str]:
        return response.status_code, response.json()["error"]["message"]

    assert error(post(url, seed=-2)) == (422, "seed: got -2, expected -1 (random) or 0 to 4294967295")
    assert error(post(url, input_image=None))[0] == 422
    assert error(post(url, prompt="<lora:absent:1>"))[1].startswith("LoRA: got 'absent', expected one of those")
    assert error(post(url, plan="/etc/passwd"))[1].startswith("plan: got '/etc/passwd'")
    assert error(post(url, num_samples=9))[1] == "num_samples: got 9, expected at most 8 on this server"
    assert error(requests.post(f"{url}/v1/pictures", data=b"x" * 1000001, headers=HEADERS, timeout=9))[0] == 413
    assert error(requests.post(f"{url}/v1/pictures", data=b"{}", headers=HEADERS, timeout=9))[0] == 415
    assert error(requests.get(f"{url}/v1/weights", timeout=9))[0] == 401
    assert error(requests.get(f"{url}/absent", headers=HEADERS, timeout=9))[0] == 404


def test_webuiapi_draws_with_a_lora_in_the_prompt(url: str, trained: hackathon) -> None:
    client = webuiapi.WebUIApi(baseurl=f"{url}/sdapi/v1", sampler="DDIM", username="any", password=KEY)
    assert client.has_controlnet
    image = Image.fromarray(waves(64, 64))
    unit = webuiapi.ControlNetUnit(image=image, module="canny", pixel_perfect=True, threshold_a=100, threshold_b=200)
    wanted = {"width": 64, "height": 64, "cfg_scale": 9, "eta": 0, "seed": 5, "controlnet_units": [unit]}
    wanted |= {"prompt": "a bird, best quality", "negative_prompt": "lowres"}
    plain = client.txt2img(**wanted)
    assert near(np.array(plain.image), process(trained)[0])
    assert plain.info["infotexts"][0] == plain.image.info["parameters"]
    changed = client.txt2img(**{**wanted, "prompt": "a bird, best quality <lora:red:0.5>"})
    assert not near(np.array(changed.image), np.array(plain.image))
    assert near(np.array(client.txt2img(**wanted).image), np.array(plain.image)), "the LoRA stayed"
    assert client.util_get_model_names() == ["model", "other"]
    with pytest.raises(RuntimeError, match="expected DDIM"):
        client.txt2img(**wanted, sampler_name="Euler a")


def load(url: str, stop: threading.Event) -> list[int]:
    """Send requests until the event is set; return their statuses."""
    statuses = []
    while not stop.is_set():
        statuses.append(post(url, seed=3).status_code)
    return statuses


def test_weights_change_under_load_without_a_failed_request(url: str) -> None:
    stop = threading.Event()
    with ThreadPoolExecutor(4) as pool:
        sending = [pool.submit(load, url, stop) for _ in range(4)]
        for body in ({"checkpoint": "other"}, {"loras": [{"name": "red"}]}, {"checkpoint": "model", "loras": []}):
            response = requests.post(f"{url}/v1/weights", json=body, headers=HEADERS, timeout=60)
            assert response.status_code == 200, response.text
        stop.set()
    assert {status for one in sending for status in one.result()} == {200}
    assert response.json()["checkpoint"] == "model"


def test_a_killed_replica_loses_no_request(url: str, trained: hackathon) -> None:
    mine = psutil.Process().children(recursive=True)
    replica = next(one for one in mine if "Replica:canny2image:Replica" in " ".join(one.cmdline()))
    with ThreadPoolExecutor(8) as pool:
        sending = [pool.submit(post, url, seed=seed) for seed in range(24)]
        time.sleep(0.3)
        os.kill(replica.pid, signal.SIGKILL)
        made = [picture_of(one.result()) for one in sending]
    assert all(near(one, process(trained, seed=seed)[0]) for seed, one in enumerate(made))


def test_a_full_queue_refuses_at_once(url: str) -> None:
    with ThreadPoolExecutor(80) as pool:
        answers = list(pool.map(lambda seed: post(url, seed=seed), range(80)))
    refused = [one for one in answers if one.status_code == 503]
    assert refused
    assert {one.status_code for one in answers} == {200, 503}
    assert all(int(one.headers["Retry-After"]) >= 1 for one in refused)
