"""The routes /v1: pictures and weights, with JSON or forms."""

import asyncio
import base64
import re
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.datastructures import UploadFile
from starlette.responses import JSONResponse

from cldm import request as requests
from cldm.request import CONTEST, drawn
from reading import parse_object, shown
from serving import schemas
from serving.errors import Refused
from serving.large_json import LargeJSON
from serving.parameters import infotext, png
from serving.service import Asked, Made, Service
from serving.uploads import decode, decode_base64
from weights.lora import check_strength

PICTURES = ("input_image", "edges")
TEXTS = ("prompt", "a_prompt", "n_prompt", "plan")  # form fields that are not JSON
PLAN = re.compile(r"[A-Za-z0-9_, ]{1,1000}")  # a name or step indices, never the path of a file


def routes(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1")

    @router.post("/pictures", openapi_extra=schemas.PICTURES, responses=schemas.responses(schemas.MADE))
    async def pictures(request: Request) -> JSONResponse:
        """Generate pictures from the edges of a picture and a prompt."""
        return await service.limited(lambda: _pictures(service, request))

    @router.get("/weights", responses=schemas.responses(schemas.WEIGHTS))
    async def weights() -> JSONResponse:
        """Return the weights in use, and the names of those that may be chosen."""
        return JSONResponse(_weights(service))

    @router.post("/weights", openapi_extra=schemas.CHANGE, responses=schemas.responses(schemas.WEIGHTS))
    async def change(request: Request) -> JSONResponse:
        """Change the weights of all replicas in sequence, between batches."""
        checkpoint, loras = read_change(await service.limited(lambda: read_json(request)))
        await service.change(checkpoint, loras)
        return JSONResponse(_weights(service))

    return router


async def read_json(request: Request) -> dict[str, Any]:
    """Return the JSON object of a body. Raise Refused for other content types, ValueError for other content.

    Pages of other sites cannot send this type without the browser's asking first, which is never answered.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, "media_type", f"content-type: got {shown(kind)}, expected application/json")
    try:
        return await asyncio.to_thread(parse_object, await request.body())
    except ValueError as error:
        raise ValueError(f"the body {error}: send a JSON object") from error


def read_change(values: Mapping[str, Any]) -> tuple[str | None, list[tuple[str, float]] | None]:
    """Return the checkpoint and the LoRAs in {"checkpoint", "loras"}. Raise ValueError or TypeError."""
    _refuse_unknown(values, ("checkpoint", "loras"))
    checkpoint, loras = values.get("checkpoint"), values.get("loras")
    if not isinstance(checkpoint, (str, type(None))):
        raise TypeError(f"checkpoint: got {shown(checkpoint)}, expected a name, or null to keep it")
    if loras is None:
        return checkpoint, None
    if not isinstance(loras, list):
        raise TypeError(f"loras: got {shown(loras)}, expected a list, or null to keep them")
    return checkpoint, [_lora(one) for one in loras]


def read_pictures(values: Mapping[str, Any]) -> Asked:
    """Return the request in JSON values, or in those of a form, whose pictures are bytes. Raise like `Request`."""
    _refuse_unknown(values, (*CONTEST, *PICTURES, "plan"))
    decoded = {name: _picture(name, values[name]) for name in PICTURES if values.get(name) is not None}
    if not decoded:
        raise ValueError("input_image: it is missing, expected a picture (or an edge map as edges)")
    arguments = {name: value for name, value in values.items() if name in CONTEST}
    seed = drawn(arguments.get("seed", CONTEST["seed"]))
    picture, edges = decoded.get("input_image"), decoded.get("edges")
    request = requests.Request.contest(picture, **{**arguments, "seed": seed, "edges": edges})
    return Asked(request, _plan(values.get("plan")))


async def _pictures(service: Service, request: Request) -> JSONResponse:
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        values = await _read_form(request)
    else:
        values = await read_json(request)
    made = await service.draw([await asyncio.to_thread(read_pictures, values)])
    note(request, made)
    return await asyncio.to_thread(_response, made[0])


def note(request: Request, made: list[Made]) -> None:
    """Add the times of a request to its log line."""
    first = made[0].drawn
    request.scope["told"] |= {
        "queue": round(first.queued, 4),
        "generation": round(first.generated, 4),
        "batch": first.batch,
        "pictures": sum(len(one.drawn.pictures) for one in made),
    }


def encoded(made: Made) -> list[str]:
    """Return the PNG files in base64."""
    files = (png(picture, made.asked, made.settings) for picture in made.drawn.pictures)
    return [base64.b64encode(file).decode() for file in files]


def _response(made: Made) -> LargeJSON:
    parameters = {name: getattr(made.asked, name) for name in CONTEST}
    content = {
        "pictures": encoded(made),
        "seed": made.asked.seed,
        "parameters": {**parameters, "settings": made.settings},
        "infotext": infotext(made.asked, made.settings),
    }
    return LargeJSON(content)


async def _read_form(request: Request) -> dict[str, Any]:
    values: dict[str, Any] = {}
    async with request.form(max_files=len(PICTURES), max_fields=40) as form:
        for name, value in form.multi_items():
            if name in values:
                raise ValueError(f"the body has the field {shown(name)} twice, expected it once")
            values[name] = await value.read() if isinstance(value, UploadFile) else _field(name, str(value))
    return values


def _field(name: str, text: str) -> Any:
    """Return the value of a form's field: text of prompts, else JSON."""
    if name in TEXTS or name in PICTURES:
        return text
    try:
        return parse_object(f'{{"value": {text}}}')["value"]
    except (ValueError, KeyError):
        return text  # whose type is then refused in words


def _picture(name: str, value: Any) -> Any:
    return decode(value, name) if isinstance(value, bytes) else decode_base64(value, name)


def _plan(plan: Any) -> str | None:
    if plan is None:
        return None
    if not isinstance(plan, str) or not PLAN.fullmatch(plan):
        raise ValueError(f"plan: got {shown(plan)}, expected a name such as 'ten', or step indices such as '19,4'")
    return plan


def _lora(one: Any) -> tuple[str, float]:
    if not isinstance(one, dict) or not isinstance(one.get("name"), str):
        raise TypeError(f'loras: got {shown(one)}, expected objects such as {{"name": "style", "strength": 0.8}}')
    _refuse_unknown(one, ("name", "strength"))
    return one["name"], check_strength(one.get("strength", 1.0))


def _refuse_unknown(values: Mapping[str, Any], known: tuple[str, ...]) -> None:
    if unknown := [name for name in values if name not in known]:
        raise ValueError(f"got the field {shown(unknown[0])}, expected some of {', '.join(known)}")


def _weights(service: Service) -> dict[str, Any]:
    now, offered = service.queue.weights, service.offered
    return {
        "checkpoint": offered.checkpoint_name(now.checkpoint),
        "loras": [{"name": offered.lora_name(file), "strength": strength} for file, strength in now.loras],
        "offered": {"checkpoints": offered.checkpoint_names, "loras": offered.loras.names},
    }
