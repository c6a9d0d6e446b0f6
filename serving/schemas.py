"""The parts of the OpenAPI document: the fields of requests, from the ranges that `Request` checks, and of answers."""

from typing import Any

from cldm.arguments import MOST_LETTERS, REAL, THRESHOLD, WHOLE
from cldm.request import CONTEST
from serving.errors import STATUSES

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
PICTURE: Schema = {"type": "string", "format": "picture-in-base64", "description": "PNG, JPEG, WebP or BMP"}
PLAN: Schema = {"type": "string", "description": "ten, all, a plan's name or step indices; default: the server's"}
LORA: Schema = {
    "type": "object",
    "properties": {"name": TEXT, "strength": {"type": "number", "default": 1}},
    "required": ["name"],
    "additionalProperties": False,
}
ERROR: Schema = {
    "type": "object",
    "properties": {"error": {"type": "object", "properties": {"type": TEXT, "message": TEXT}}},
    "required": ["error"],
}


def _argument(name: str) -> Schema:
    """Return the schema of an argument of process()."""
    default = {"default": CONTEST[name]}
    if name in WHOLE:
        low = -1 if name == "seed" else int(WHOLE[name].low)
        return {"type": "integer", "minimum": low, "maximum": int(WHOLE[name].high), **default}
    if name in REAL:
        return {"type": "number", "minimum": REAL[name].low, "maximum": REAL[name].high, **default}
    if name.endswith("threshold"):
        return {"type": ["number", "null"], "minimum": THRESHOLD.low, "maximum": THRESHOLD.high, **default}
    return {"type": "boolean", **default} if name == "guess_mode" else {**TEXT, "maxLength": MOST_LETTERS, **default}


def _object(required: list[str] | None = None, **properties: Schema) -> Schema:
    """Return the schema of an object. required: names; all by default."""
    names = list(properties) if required is None else required
    return {"type": "object", "properties": properties, **({"required": names} if names else {})}


def _body(content: dict[str, Schema]) -> Schema:
    return {"requestBody": {"required": True, "content": {kind: {"schema": one} for kind, one in content.items()}}}


def responses(schema: Schema) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of the answers of a route."""
    errors = {status: (text, ERROR) for status, text in STATUSES.items()}
    return {
        status: {"description": text, "content": {"application/json": {"schema": one}}}
        for status, (text, one) in {200: ("done", schema), **errors}.items()
    }


_ARGUMENTS = {name: _argument(name) for name in CONTEST}
_BINARY = {"type": "string", "format": "binary"}
_JSON = _object([], input_image=PICTURE, edges=PICTURE, plan=PLAN, **_ARGUMENTS) | {
    "anyOf": [{"required": ["input_image"]}, {"required": ["edges"]}],
    "additionalProperties": False,
}
_FORM = _object(["input_image"], input_image=_BINARY, edges=_BINARY, plan=PLAN, **_ARGUMENTS)
PICTURES = _body({"application/json": _JSON, "multipart/form-data": _FORM})
MADE = _object(
    pictures={"type": "array", "items": PICTURE}, seed={"type": "integer"}, parameters=_object(), infotext=TEXT
)
CHANGE = _body(
    {
        "application/json": _object(
            [],
            checkpoint={"type": ["string", "null"]},
            loras={"type": ["array", "null"], "items": LORA},
        )
        | {"additionalProperties": False}
    }
)
ANY_OBJECT = _body({"application/json": {"type": "object"}})
_NAMES: Schema = {"type": "array", "items": TEXT}
WEIGHTS = _object(
    checkpoint=TEXT, loras={"type": "array", "items": LORA}, offered=_object(checkpoints=_NAMES, loras=_NAMES)
)
