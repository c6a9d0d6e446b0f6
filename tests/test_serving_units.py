"""Parts of the server that need no Ray: tags in prompts, txt2img, batches, and shares of a machine."""

import asyncio
import base64
import io
import json
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="./preprocess.sh serve installs the server's packages")
pytest.importorskip("ray", reason="./preprocess.sh serve installs the server's packages")

from cldm.request import Request
from serving.dispatch import Batch, Dispatcher, Job, Weights, take
from serving.errors import one_sentence
from serving.large_json import LargeJSON
from serving.options import parse
from serving.prompt_loras import split_loras
from serving.ray_replicas import shares
from serving.replica import Replica
from serving.service import Service
from serving.webui import read_txt2img
from tests.arguments import GOOD, waves


def request(**changes: Any) -> Request:
    return Request(**{**GOOD, **changes})


def base64_png(height: int = 64, width: int = 64) -> str:
    file = io.BytesIO()
    Image.fromarray(waves(height, width)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def txt2img(unit: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    one = {"image": base64_png(), "module": "canny", "pixel_perfect": True, **(unit or {})}
    scripts = {"ControlNet": {"args": [one]}}
    return {"prompt": "a bird", "width": 64, "height": 64, "steps": 20, "alwayson_scripts": scripts, **changes}


def test_tags_of_loras() -> None:
    assert split_loras("a bird <lora:birds/red:0.8>") == ("a bird", [("birds/red", 0.8)])
    assert split_loras("<lora:x> a <3 b") == ("a <3 b", [("x", 1.0)])
    for tag in ("<lora:x:y>", "<lora:x:nan>", "<lora:x:1:2>", "<lora:>", "<hypernet:x:1>"):
        with pytest.raises(ValueError, match="expected <lora:name:strength>"):
            split_loras(tag)


def test_txt2img_gives_a_request_per_picture() -> None:
    asked = read_txt2img(txt2img(batch_size=2, n_iter=2, seed=7, cfg_scale=5, sampler_name="DDIM"), 8)
    assert [one.request.seed for one in asked] == [7, 8, 9, 10]
    assert asked[0].request.prompts == ("a bird", "")
    assert (asked[0].request.scale, asked[0].request.low_threshold) == (5.0, 100)
    assert asked[0].request.size == (64, 64)


def test_what_is_sent_back_can_be_written() -> None:
    huge = read_txt2img(txt2img(comments={"a": 10**30}), 8)
    assert len(huge) == 1
    assert json.loads(bytes(LargeJSON({"comments": 10**30, "images": ["a"]}).body)) == {
        "comments": 10**30,
        "images": ["a"],
    }
    for value in ("\ud800", ["\ud800"], {"\ud800": 1}):
        with pytest.raises(ValueError, match=r"^comments: got half of a surrogate pair"):
            read_txt2img(txt2img(comments=value), 8)


def test_canny_works_at_the_units_resolution() -> None:
    found = read_txt2img(txt2img({"pixel_perfect": False, "processor_res": 128}), 8)[0].request
    assert found.edges is not None
    assert found.edges.shape == (128, 128)


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"enable_hr": True}, {}, "enable_hr: got True"),
    ({"styles": ["x"]}, {}, "styles: got"),
    ({"sampler_name": "Euler a"}, {}, "sampler_name: got 'Euler a', expected DDIM"),
    ({"width": 128}, {}, "got 128 x 64, but this control image gives 64 x 64"),
    ({"foo": 1}, {}, "the field 'foo'"),
    ({"override_settings": {"x": 1}}, {}, "override_settings: got 'x'"),
    ({"alwayson_scripts": {}}, {}, "got no unit"),
    ({"alwayson_scripts": {"ADetailer": {}}}, {}, "got 'ADetailer'"),
    ({"batch_size": 9}, {}, "batch_size: got 9"),
    ({}, {"module": "depth"}, "module: got 'depth'"),
    ({}, {"guidance_end": 0.5}, "guidance_end: got 0.5"),
    ({}, {"control_mode": "My prompt is more important"}, "control_mode"),
    ({}, {"mask": "x"}, "'mask'"),
    ({}, {"model": "depth"}, "model: got 'depth'"),
    ({}, {"image": ""}, "image: got"),
]


@pytest.mark.parametrize(("changes", "unit", "sentence"), REFUSED, ids=lambda value: str(value)[:30])
def test_what_cannot_be_honoured_gets_a_sentence(changes: dict[str, Any], unit: dict[str, Any], sentence: str) -> None:
    with pytest.raises((ValueError, TypeError), match=sentence):
        read_txt2img(txt2img(unit, **changes), 8)


def test_batches_are_of_one_group_and_the_oldest_comes_first() -> None:
    async def run() -> None:
        jobs = [
            Job(request(ddim_steps=steps, num_samples=count)) for steps, count in ((20, 1), (10, 1), (20, 2), (20, 2))
        ]
        waiting = list(jobs)
        assert take(waiting, 4, 2**22) == [jobs[0], jobs[2]]
        assert take(waiting, 4, 2**22) == [jobs[1]]
        assert take(waiting, 4, 64 * 64) == [jobs[3]]
        assert take(waiting, 4, 2**22) == []

    asyncio.run(run())


def test_jobs_take_the_weights_of_the_moment_and_each_gets_its_own_error() -> None:
    used: list[Weights] = []

    async def draw(requests: Any, plan: str | None, weights: Weights) -> Batch:
        used.append(weights)
        return Batch([ValueError("bad") if one.seed == 1 else [one.source] for one in requests], {})

    async def run() -> None:
        dispatcher = Dispatcher(draw, Weights("a"), 4, 2**22)
        worker = asyncio.create_task(dispatcher.work())
        good, bad = Job(request(seed=0), loras=(("x", 1.0),)), Job(request(seed=1), loras=(("x", 1.0),))
        results = await asyncio.gather(dispatcher.submit([bad]), dispatcher.submit([good]), return_exceptions=True)
        assert isinstance(results[0], ValueError)
        assert isinstance(results[1], list)
        assert results[1][0].batch == 2
        dispatcher.weights = Weights("b")
        await dispatcher.submit([Job(request())])
        worker.cancel()

    asyncio.run(run())
    assert used == [Weights("a", (("x", 1.0),)), Weights("b")]


def test_shares_of_a_machine() -> None:
    assert shares(parse([]), {"CPU": 8, "GPU": 4}) == (4, {"num_gpus": 1, "num_cpus": 1})
    assert shares(parse(["--replicas", "3"]), {"CPU": 8, "GPU": 2}) == (3, {"num_gpus": 0.5, "num_cpus": 1})
    assert shares(parse(["--replicas", "2"]), {"CPU": 5}) == (2, {"num_cpus": 2})
    assert shares(parse(["--replicas", "4"]), {"CPU": 2}) == (4, {"num_cpus": 0.5})


def test_messages_name_files_without_their_folders() -> None:
    assert one_sentence(ValueError("LoRA /srv/loras/red.safetensors has\nno tensors")) == (
        "LoRA red.safetensors has no tensors"
    )
    assert one_sentence(ValueError("plan: got '/a/b'")) == "plan: got '/a/b'"


def test_a_replica_captures_all_sizes_before_it_serves() -> None:
    class Runtime:
        graph, drawn = object(), list[int]()

        def process_many(self, requests: list[Request]) -> None:
            self.drawn.append(len(requests))

    replica = Replica.__new__(Replica)
    replica.runtime = Runtime()  # type: ignore[assignment]
    replica._warm(6)
    assert Runtime.drawn == [2, 4]


def test_a_change_of_weights_ends_without_its_client() -> None:
    """Otherwise only some replicas would have the new weights."""

    changed: list[Weights] = []

    class Replicas:
        async def change(self, weights: Weights) -> None:
            await asyncio.sleep(0.01)
            changed.append(weights)

    async def change_and_leave() -> None:
        service = Service(parse([]), Replicas())  # type: ignore[arg-type]
        service.dispatcher = Dispatcher(_refuse, Weights("a", ()), 1, 1)
        service.known = SimpleNamespace(find_checkpoint=str)  # type: ignore[assignment]
        client = asyncio.create_task(service.change("b", None))
        await asyncio.sleep(0)
        client.cancel()
        await asyncio.sleep(0.05)
        assert service.queue.weights == Weights("b", ())
        assert changed == [Weights("b", ())]

    asyncio.run(change_and_leave())


async def _refuse(*arguments: Any) -> Batch:
    raise AssertionError("nothing is generated")
