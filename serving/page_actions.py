"""What the page does, as functions of plain values: they need no browser and no Gradio."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from cldm.arguments import check_boolean
from cldm.canny import Picture
from cldm.request import CONTEST, Request
from reading import shown
from scoring.compare import Judge
from scoring.inception import Inception
from scoring.timeline import timeline_picture
from serving.form import check_limits, read_picture
from serving.parameters import load
from serving.prompt_loras import split_loras
from serving.studio import Drawn, Say, Studio


@dataclass(frozen=True)
class Comparison:
    """A reference, and the distance of a picture from it. metric: "PD", or "PD*" without the real Inception weights."""

    reference: Picture
    metric: str
    distance: float
    ssim: float


def edges(file: str, edge_map: bool, image_resolution: int, low_threshold: float, high_threshold: float) -> Picture:
    """Return the edges that ControlNet would get, uint8 [h, w]. Raises like `Form.request`."""
    low, high = (None, None) if check_boolean("edge_map", edge_map) else (low_threshold, high_threshold)
    request = Request.contest(
        read_picture(file), image_resolution=image_resolution, low_threshold=low, high_threshold=high
    )
    check_limits(request)
    return request.edge_map()


def compare(studio: Studio, of: Drawn, inception: Inception, say: Say) -> Comparison:
    """Draw the float32 reference of a picture, and measure the distance. Raises like `Studio.reference`."""
    reference = studio.reference(of, say)
    say(1.0, "comparing")
    distances, similarities = Judge([reference], inception)([of.picture])
    return Comparison(reference, inception.metric_name, distances[0], similarities[0])


def timeline_png(of: Drawn) -> bytes:
    """Return a PNG file that shows when each stage ran on the two streams."""
    title = ", ".join(of.settings[name] for name in ("Backend", "Precision", "Plan", "Device"))
    with TemporaryDirectory() as folder:
        file = Path(folder) / "timeline.png"
        timeline_picture(of.rows, title, file)
        return file.read_bytes()


def entered(studio: Studio, content: bytes) -> tuple[dict[str, Any], list[str]]:
    """Return the fields of a `Form` from a PNG file that was made here, and a sentence for each that does not fit.

    The picture itself is not in the file. Raises ValueError or TypeError for a file without parameters, or with some
    that `Request` refuses.
    """
    values = load(content)
    settings = values.pop("settings")
    request = Request(np.zeros((64, 64, 3), np.uint8), **values)
    check_limits(request)
    fields = {name: value for name, value in vars(request).items() if name in CONTEST and value is not None}
    fields["edge_map"] = request.low_threshold is None
    loras, notes = _offered_loras(studio, settings.get("LoRAs", ""))
    if fields.pop("num_samples") != 1:
        notes.append(f"num_samples: the file has {request.num_samples}; here it is 1, which may give another picture")
    model, own = settings.get("Model", studio.own_model), studio.own_model
    if model not in studio.models:
        notes.append(f"weights: the file has {shown(model)}, which is not offered here: {own} is used")
        model = own
    return {**fields, "plan": settings.get("Plan", studio.own_plan), "model": model, **loras}, notes


def _offered_loras(studio: Studio, tags: str) -> tuple[dict[str, Any], list[str]]:
    (_, found), offered = split_loras(tags, "LoRAs"), studio.loras.names
    kept = [(name, strength) for name, strength in found if name in offered]
    notes = [
        f"LoRA: the file has {shown(name)}, which is not offered here: it is left out"
        for name, _ in found
        if name not in offered
    ]
    return {
        "loras": [name for name, _ in kept],
        "lora_strengths": ", ".join(f"{strength:g}" for _, strength in kept) or "1",
    }, notes


class Warnings(logging.Handler):
    """Collects the warnings that one thread logs, such as that of a cut prompt."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        self.thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.thread:
            self.messages.append(record.getMessage())


@contextmanager
def heard() -> Iterator[list[str]]:
    """Yield a list that collects the warnings which this thread logs in the block."""
    handler = Warnings()
    logging.getLogger().addHandler(handler)
    try:
        yield handler.messages
    finally:
        logging.getLogger().removeHandler(handler)
