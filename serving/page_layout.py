"""The widgets of the page, by name. Those of a `Form` have the names of its fields."""

from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component

from cldm.request import CONTEST
from scoring.pictures import DRAWN_BIRDS
from serving.studio import Studio

Widgets = dict[str, Component]

CSS = """
.gradio-container { overflow: clip !important; }
#status { position: sticky; top: 0; z-index: 100; padding: 4px 10px; font-size: 0.8rem; overflow-wrap: anywhere;
  background: var(--background-fill-secondary); border: 1px solid var(--border-color-primary); border-radius: 8px; }
#status .html-container { padding: 0; }
#status span { margin-right: 1em; }
@media (max-width: 640px) { #status, #status .prose { font-size: 0.7rem; line-height: 1.3; } }
"""
# Gradio's examples have no text that a screen reader could say.
NAME_EXAMPLES = """() => document.querySelectorAll("button.gallery-item").forEach(
  (button, index) => button.setAttribute("aria-label", `Example ${index + 1}`))"""
THEME = gr.themes.Default(  # fonts of the system: the default ones come from another server
    primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
).set(  # more contrast
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_300",
    button_primary_background_fill="*primary_600",
    slider_color="*primary_600",
)


def make_widgets(studio: Studio) -> Widgets:
    """Create the widgets inside a `gr.Blocks` context, in two columns that become one on a phone."""
    gr.Markdown("# Canny edges to pictures\nThe edges of a picture and a prompt give a new picture.")
    widgets: Widgets = {"status": gr.HTML(status(studio.settings), elem_id="status", padding=False)}
    with gr.Row():
        with gr.Column(min_width=320):
            widgets |= _source() | _prompts() | _control() | _sampling(studio) | _weights(studio)
            widgets["upload"] = gr.UploadButton(
                "Load parameters from a PNG made here", file_types=[".png"], size="md", elem_id="upload"
            )
        with gr.Column(min_width=320):
            widgets |= _results(studio)
    return widgets


def status(settings: dict[str, str]) -> str:
    """Return HTML with what pictures are drawn with."""
    return "".join(f"<span><b>{escape(name)}</b> {escape(value)}</span> " for name, value in settings.items())


def _source() -> Widgets:
    picture = gr.Image(
        label="Picture: choose, drop or paste", type="filepath", image_mode=None,
        sources=["upload", "clipboard"], height=260, elem_id="picture", alt_text="the picture whose edges are used",
    )  # fmt: skip
    _unchecked(picture, lambda payload: payload and payload.path)  # uploads.decode reads it, and no other decoder
    birds = sorted(str(file) for file in DRAWN_BIRDS.glob("*.png"))
    gr.Examples([[bird] for bird in birds], [picture], label="Examples", examples_per_page=len(birds))
    return {
        "picture": picture,
        "edge_map": gr.Checkbox(label="The picture is an edge map, white on black", elem_id="edge_map"),
    }


def _prompts() -> Widgets:
    return {
        "prompt": gr.Textbox(CONTEST["prompt"], label="Prompt", elem_id="prompt"),
        "a_prompt": gr.Textbox(CONTEST["a_prompt"], label="Added to the prompt"),
        "n_prompt": gr.Textbox(CONTEST["n_prompt"], label="Negative prompt"),
    }


def _control() -> Widgets:
    with gr.Row():
        low = _slider("low_threshold", "Low threshold", 0, 500, 1)
        high = _slider("high_threshold", "High threshold", 0, 500, 1)
    edges = gr.Image(
        label="Edges that ControlNet gets", format="png", interactive=False, height=220, elem_id="edges",
        alt_text="white edges on black", buttons=["download", "fullscreen"],
    )  # fmt: skip
    with gr.Row():
        strength = _slider("strength", "Strength of the edges", 0, 2, 0.05)
        guess = gr.Checkbox(CONTEST["guess_mode"], label="Guess mode", info="The edges dominate the prompt")
    return {"low_threshold": low, "high_threshold": high, "edges": edges, "strength": strength, "guess_mode": guess}


def _sampling(studio: Studio) -> Widgets:
    with gr.Accordion("Sampling", open=False, elem_id="sampling"):
        return {
            "seed": gr.Number(CONTEST["seed"], label="Seed", info="-1: a random one", elem_id="seed"),
            "scale": _slider("scale", "Guidance scale", 0, 30, 0.5),
            "eta": _slider("eta", "Eta", 0, 1, 0.05, "0: DDIM, 1: as noisy as DDPM"),
            "ddim_steps": _slider("ddim_steps", "Steps", 1, 100, 1),
            "plan": gr.Dropdown(
                studio.plans, value=studio.own_plan, label="Plan: steps that are evaluated", allow_custom_value=True,
                info="A name, or indices such as 19,14,9,4",
            ),
            "image_resolution": _slider("image_resolution", "Resolution", 64, 1024, 64, "Pixels of the shorter side"),
        }  # fmt: skip


def _weights(studio: Studio) -> Widgets:
    with gr.Accordion("Weights", open=False, visible=bool(studio.shelf.folder or studio.loras.folder)):
        return {
            "model": gr.Dropdown(studio.models, value=studio.own_model, label="Weights"),
            "loras": gr.Dropdown(studio.loras.names, value=[], multiselect=True, label="LoRAs"),
            "lora_strengths": gr.Textbox("1", label="LoRA strengths", info="One number, or one for each LoRA"),
        }


def _results(studio: Studio) -> Widgets:
    on_gpu = studio.runtime.device.type == "cuda"  # where it takes no time worth speaking of
    draw = gr.Button("Draw", variant="primary", elem_id="draw")
    result = gr.Image(
        label="Result", format="png", type="filepath", interactive=False, elem_id="result",
        alt_text="the generated picture", buttons=["fullscreen"],
    )  # fmt: skip
    with gr.Row(equal_height=True):
        used = gr.Textbox(label="Seed of this picture", interactive=False, elem_id="used_seed")
        latency = gr.Textbox(
            label="Latency", interactive=False, elem_id="latency",
            info="Longer for the first picture of a size, plan or number of steps",
        )  # fmt: skip
    with gr.Row():
        again = gr.Button("Use this seed again", size="md", elem_id="again", interactive=False)
        download = gr.DownloadButton("Download with parameters", size="md", elem_id="download", interactive=False)
    measured = gr.Checkbox(on_gpu, label="Draw once more and measure the stages on both streams", elem_id="measured")
    timeline = gr.Image(
        label="Timeline", show_label=False, format="png", interactive=False, visible=False, elem_id="timeline",
        alt_text="when each stage ran on the two streams", buttons=["fullscreen"],
    )  # fmt: skip
    compare = gr.Button("Compare with the float32 reference of all steps", size="md", elem_id="compare")
    scores = gr.Textbox(label="Distance from the reference", interactive=False, elem_id="scores")
    slider = gr.ImageSlider(
        label="Result | reference", format="png", interactive=False, elem_id="slider", buttons=["fullscreen"]
    )
    divider = gr.Slider(
        0, 100, 50, step=5, label="Divider between result and reference, %", elem_id="divider", buttons=[]
    )
    return {
        "draw": draw, "result": result, "used_seed": used, "again": again, "latency": latency, "download": download,
        "measured": measured, "timeline": timeline, "compare": compare, "scores": scores, "slider": slider,
        "divider": divider, "drawn": gr.State(time_to_live=3600),
    }  # fmt: skip


def _slider(name: str, label: str, low: float, high: float, step: float, info: str | None = None) -> gr.Slider:
    slider = gr.Slider(low, high, CONTEST[name], step=step, label=label, info=info, elem_id=name)
    _unchecked(slider, lambda payload: payload)  # Request checks it, and its sentences name the argument
    return slider


def _unchecked(component: Component, preprocess: Any) -> None:
    component.preprocess = preprocess  # type: ignore[method-assign]
