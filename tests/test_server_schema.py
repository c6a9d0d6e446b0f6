"""The server's OpenAPI document against its routes, in this process: whatever is sent, no answer has status 500."""

import asyncio
import base64
import io
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("fastapi", reason="./preprocess.sh serve installs the server's packages")
pytest.importorskip("schemathesis", reason="./preprocess.sh dev installs the clients of the server")

import schemathesis
from schemathesis.core.result import Ok
from starlette.testclient import TestClient

from cldm.request import Request
from serving.app import make_app
from serving.dispatch import Batch, Weights
from serving.options import parse
from tests.arguments import waves


class Fakes:
    """Replicas that return the same picture for each request."""

    async def about(self) -> Weights:
        return Weights("model.safetensors")

    async def draw(self, requests: Sequence[Request], plan: str | None, weights: Weights) -> Batch:
        return Batch([[waves(64, 64)] * request.num_samples for request in requests], {})

    async def change(self, weights: Weights) -> None:
        await asyncio.sleep(0)

    async def running(self) -> int:
        return 1


def base64_png() -> str:
    file = io.BytesIO()
    Image.fromarray(waves(64, 64)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    app = make_app(parse(["--most-bytes", "100000"]), Fakes(), 1)
    with TestClient(app, "http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


schemathesis.openapi.format("picture-in-base64", st.just(base64_png()))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_request_of_the_document_fails_the_server(client: TestClient, data: st.DataObject) -> None:
    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    case = data.draw(data.draw(st.sampled_from(operations)).as_strategy())
    assume(case.media_type in (None, "application/json"))
    body = case.body if isinstance(case.body, dict) else {}
    answer = client.request(case.method, case.formatted_path, json=body)
    assert answer.status_code < 500 or answer.status_code == 503, answer.text
    assert answer.status_code == 200 or answer.json()["error"]["message"]


def test_only_this_machine_without_a_key(client: TestClient) -> None:
    assert client.get("/v1/weights").status_code == 200
    refused = client.get("/v1/weights", headers={"Host": "example.org"})
    assert (refused.status_code, refused.json()["error"]["type"]) == (403, "forbidden")
