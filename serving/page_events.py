"""Connects the widgets of the page with the actions, and turns exceptions into messages on the page."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from html import escape
from typing import Any

import gradio as gr
import numpy as np
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder

from scoring.inception import load_inception
from serving import page_actions
from serving.form import Form, read_upload
from serving.page_layout import Widgets, status
from serving.parameters import png
from serving.studio import Drawn, Studio

log = logging.getLogger(__name__)

NAMES = [field.name for field in fields(Form)]
DRAWN = "drawn result used_seed again latency download timeline edges status scores slider".split()
ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "device", "concurrency_limit": 1}
TO_EDGES = ["picture", "edge_map", "image_resolution", "low_threshold", "high_threshold"]


class Events:
    """The functions that events of the page and clients of its API call. What they return goes into widgets."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.inception = cache(lambda: load_inception(device=studio.runtime.device))

    def connect(self, widgets: Widgets) -> None:
        """Register all events, inside the page's `gr.Blocks` context."""

        def of(names: Sequence[str]) -> list[Any]:
            return [widgets[name] for name in names]

        gr.on(
            [widgets[name].change for name in TO_EDGES],  # type: ignore[attr-defined]
            self.edges, of(TO_EDGES), of(["edges"]),
            api_name="edges", trigger_mode="always_last", show_progress="hidden", concurrency_limit=4,
        )  # fmt: skip
        gr.on(
            [widgets["draw"].click, widgets["prompt"].submit],  # type: ignore[attr-defined]
            self.draw, of([*NAMES, "measured"]), of(DRAWN), api_name="draw", show_progress_on=of(["result"]),
            **ONE_AT_A_TIME,
        )  # fmt: skip
        widgets["compare"].click(  # type: ignore[attr-defined]
            self.compare, of(["drawn"]), of(["slider", "scores"]), api_name="compare", **ONE_AT_A_TIME
        )
        widgets["upload"].upload(  # type: ignore[attr-defined]
            self.load, of(["upload"]), of(NAMES[1:]), api_name="parameters", show_progress="hidden"
        )
        widgets["again"].click(  # type: ignore[attr-defined]
            int, of(["used_seed"]), of(["seed"]), show_progress="hidden", api_visibility="private"
        )
        widgets["divider"].change(  # type: ignore[attr-defined]
            lambda position: gr.ImageSlider(slider_position=position), of(["divider"]), of(["slider"]),
            trigger_mode="always_last", queue=False, show_progress="hidden", api_visibility="private",
        )  # fmt: skip

    def refresh(self) -> list[Any]:
        """Return the status, and what is in the folders now."""
        studio = self.studio
        return [status(studio.settings), gr.Dropdown(choices=studio.models), gr.Dropdown(choices=studio.loras.names)]

    def edges(
        self, picture: str | None, edge_map: bool, image_resolution: int, low_threshold: float, high_threshold: float
    ) -> np.ndarray[Any, Any] | None:
        """Return the edges of a picture."""
        if picture is None:
            return None
        with told():
            return page_actions.edges(picture, edge_map, image_resolution, low_threshold, high_threshold)

    def draw(
        self,
        picture: str | None,
        edge_map: bool,
        prompt: str,
        a_prompt: str,
        n_prompt: str,
        low_threshold: float,
        high_threshold: float,
        strength: float,
        guess_mode: bool,
        scale: float,
        seed: int,
        eta: float,
        ddim_steps: int,
        image_resolution: int,
        plan: str,
        model: str,
        loras: list[str],
        lora_strengths: str,
        measured: bool,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  # Gradio looks for it there
    ) -> list[Any]:
        """Draw one picture. Returns its PNG file with all parameters, its seed, latency, timeline and edges."""
        form = Form(
            picture, edge_map, prompt, a_prompt, n_prompt, low_threshold, high_threshold, strength, guess_mode, scale,
            seed, eta, ddim_steps, image_resolution, plan, model, loras, lora_strengths,
        )  # fmt: skip
        with told(), page_actions.heard() as warnings:
            request, choice = form.request(), form.choice()
            progress(0, desc="drawing")
            drawn = self.studio.draw(request, choice, measured)
        for warning in warnings:
            gr.Warning(escape(warning))
        return shown_on_the_page(drawn)

    def compare(
        self,
        drawn: Drawn | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, str]:
        """Compare the last picture with its float32 reference. Returns both, and the distance and SSIM."""
        with told():
            if drawn is None:
                raise ValueError("compare: got no picture, expected one: generate a picture first")
            made = page_actions.compare(
                self.studio, drawn, self.inception(), lambda part, what: progress(part, desc=what)
            )
        return (drawn.picture, made.reference), f"{made.metric} {made.distance:.3f}, SSIM {made.ssim:.4f}"

    def load(self, upload: str) -> list[Any]:
        """Return the parameters in a PNG file that was made here, in the order of the fields."""
        with told():
            values, notes = page_actions.entered(self.studio, read_upload(upload, "parameters"))
        for note in notes:
            log.warning("%s", note)
            gr.Warning(escape(note))
        return [values.get(name, gr.skip()) for name in NAMES[1:]]


def shown_on_the_page(drawn: Drawn) -> list[Any]:
    """Return the values of the widgets DRAWN; an earlier comparison disappears."""
    name = f"canny2image_{drawn.request.seed}.png"
    file = kept(png(drawn.picture, drawn.request, drawn.settings), name)
    timeline = kept(page_actions.timeline_png(drawn), "timeline.png") if drawn.rows else None
    return [
        drawn,
        file,
        str(drawn.request.seed),
        gr.Button(interactive=True),
        f"{drawn.milliseconds:.1f} ms",
        gr.DownloadButton(value=file, interactive=True),
        gr.Image(value=timeline, visible=timeline is not None),
        drawn.request.edge_map(),
        status(drawn.settings),
        "",
        None,
    ]


def kept(content: bytes, name: str) -> str:
    """Write a file into a folder of its own from which Gradio serves it, and later deletes it."""
    return save_bytes_to_cache(content, name, get_upload_folder())


@contextmanager
def told() -> Iterator[None]:
    """Show an error of the block on the page in one sentence. It may quote a file of someone else: no HTML passes."""
    try:
        yield
    except (ValueError, TypeError, OSError, RuntimeError) as error:  # RuntimeError: of the device
        sentence = " ".join(str(error).split())
        failed = isinstance(error, RuntimeError)
        log.log(logging.ERROR if failed else logging.INFO, "refused: %s", sentence, exc_info=failed)
        raise gr.Error(escape(sentence), duration=20, print_exception=False) from error
