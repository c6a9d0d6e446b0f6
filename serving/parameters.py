"""The parameters of a picture in its PNG file: as the WebUI writes them, and as JSON, to load them back."""

import io
import json
from typing import Any

from PIL import Image

from cldm.canny import Picture
from cldm.request import CONTEST, Request
from reading import parse_object
from serving.png import png_file

WEBUI = "parameters"  # the chunk that the WebUI and its clients read
EXACT = "canny2image"  # JSON with all arguments of process() but the pictures
MOST_TEXT = 2**20  # characters of a chunk


def infotext(request: Request, settings: dict[str, str]) -> str:
    """Return the parameters as the WebUI writes them. settings: of the runtime, such as its weights and plan."""
    height, width = request.size
    control = {
        "Module": "none" if request.own_edges is not None else "canny",
        "Weight": request.strength,
        "Threshold A": request.low_threshold,
        "Threshold B": request.high_threshold,
        "Control Mode": "ControlNet is more important" if request.guess_mode else "Balanced",
    }
    unit = ", ".join(f"{name}: {value}" for name, value in control.items() if value is not None)
    values = {
        "Steps": request.ddim_steps,
        "Sampler": "DDIM",
        "CFG scale": f"{request.scale:g}",
        "Seed": request.seed,
        "Size": f"{width}x{height}",
        "Eta": f"{request.eta:g}" if request.eta else None,
        **settings,
        "ControlNet 0": unit,
    }
    last = ", ".join(f"{name}: {_quoted(value)}" for name, value in values.items() if value is not None)
    prompt, negative = request.prompts
    return f"{prompt}\nNegative prompt: {negative}\n{last}"


def _quoted(value: object) -> str:
    """Return a value as text, in quotes where the WebUI has them: its lists have commas and colons."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(letter in text for letter in ",:\n") else text


def png(picture: Picture, request: Request, settings: dict[str, str]) -> bytes:
    """Return a PNG file of an RGB picture, uint8 [h, w, 3], with the parameters of its request."""
    exact = {name: getattr(request, name) for name in CONTEST}
    return png_file(picture, {WEBUI: infotext(request, settings), EXACT: json.dumps({**exact, "settings": settings})})


def chunks(content: bytes) -> dict[str, str]:
    """Return the text chunks of a PNG file by keyword. Raise ValueError if this is no PNG file."""
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            found = {str(name): str(value) for name, value in image.info.items() if isinstance(value, str)}
            image.verify()  # the checksums of all chunks
    except Exception as error:  # Pillow raises many kinds of exceptions for damaged files
        raise ValueError("got a damaged file or no PNG file, expected a picture that was made here") from error
    return {name: value for name, value in found.items() if len(value) <= MOST_TEXT}


def load(content: bytes) -> dict[str, Any]:
    """Return the arguments of process(), without pictures, from a PNG file of `png`, and "settings".

    Raise ValueError if the file has none. The arguments are those of the file: `Request` checks them.
    """
    text = chunks(content).get(EXACT)
    if text is None:
        raise ValueError("got a PNG file without parameters, expected a picture that was made here")
    try:
        values = parse_object(text)
    except ValueError as error:
        raise ValueError(f"got a PNG file whose parameters are damaged ({error}): choose another file") from error
    settings = values.get("settings")
    texts = isinstance(settings, dict) and all(isinstance(value, str) for value in settings.values())
    if values.keys() != {*CONTEST, "settings"} or not texts:
        raise ValueError("got a PNG file with parameters of another version, expected a picture that was made here")
    return values
