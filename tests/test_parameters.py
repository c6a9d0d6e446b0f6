"""Parameters in PNG files: written as the WebUI does, and loaded back exactly."""

import io
import json
import re
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from cldm.request import CONTEST, Request
from serving.parameters import EXACT, chunks, infotext, load, png

PICTURE = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
SETTINGS = {"Model": "birds/red", "Plan": "19,14,9,4", "Graph": "no graph: the CPU has none"}
# The WebUI's own expression for the last line (modules/infotext_utils.py).
PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
PROMPTS = [
    "a bird", "", "ein Vögelchen, 鳥, 🐦", "two\nlines: and, commas", 'a "quoted" \\ word', "Steps: 5, Seed: 1",
    "Negative prompt: none", "<lora:red:0.8>", "\u202e", "x" * 10_000,
]  # fmt: skip


def request(**changes: Any) -> Request:
    return Request.contest(PICTURE, image_resolution=64, **changes)


def of_the_webui(text: str) -> dict[str, str]:
    """Return the parameters of the last line, as the WebUI reads them."""
    found = dict(PARAMETER.findall(text.split("\n")[-1]))
    return {name: json.loads(value) if value.startswith('"') else value for name, value in found.items()}


def with_chunk(text: str | None, keyword: str = EXACT) -> bytes:
    info = PngImagePlugin.PngInfo()
    if text is not None:
        info.add_itxt(keyword, text)
    file = io.BytesIO()
    Image.fromarray(PICTURE).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def exact(**changes: Any) -> str:
    return json.dumps({**CONTEST, "settings": {}, **changes})


@pytest.mark.parametrize("prompt", PROMPTS)
def test_all_arguments_come_back(prompt: str) -> None:
    made = request(
        prompt=prompt, n_prompt=prompt, a_prompt="ü", seed=2**32 - 1, eta=0.3, strength=-1.25, scale=7.1,
        guess_mode=True, ddim_steps=12, low_threshold=0.1, high_threshold=2**31 - 1, num_samples=3,
    )  # fmt: skip
    values = load(png(PICTURE, made, SETTINGS))
    assert values.pop("settings") == SETTINGS
    again = Request(PICTURE, **values)
    assert all(getattr(again, name) == getattr(made, name) for name in CONTEST)


def test_the_picture_comes_back() -> None:
    with Image.open(io.BytesIO(png(PICTURE, request(), SETTINGS))) as image:
        assert (np.array(image) == PICTURE).all()


def test_an_edge_map_stays_one() -> None:
    grey = np.zeros((64, 64), np.uint8)
    made = Request.contest(grey, image_resolution=64, low_threshold=None, high_threshold=None)
    content = png(PICTURE, made, {})
    values = load(content)
    assert (values["low_threshold"], values["high_threshold"]) == (None, None)
    unit = of_the_webui(chunks(content)["parameters"])["ControlNet 0"]
    assert unit.startswith("Module: none")
    assert "Threshold" not in unit


def test_the_text_has_the_form_of_the_webui() -> None:
    made = request(prompt="a red bird", a_prompt="best", n_prompt="low\nres", eta=0.5, seed=7)
    text = infotext(made, SETTINGS)
    lines = text.split("\n")
    assert lines[:3] == ["a red bird, best", "Negative prompt: low", "res"]
    values = of_the_webui(text)
    unit = dict(part.split(": ") for part in values.pop("ControlNet 0").split(", "))
    assert values == {
        "Steps": "20", "Sampler": "DDIM", "CFG scale": "9", "Seed": "7", "Size": "64x64", "Eta": "0.5", **SETTINGS,
    }  # fmt: skip
    assert unit["Module"] == "canny"
    assert (float(unit["Threshold A"]), float(unit["Threshold B"])) == (100, 200)
    assert unit["Control Mode"] == "Balanced"


@pytest.mark.parametrize("value", ["plain", "a, b", "a: b", 'say "a, b"', "back\\slash, x", "ü: 鳥", "a\nb"])
def test_any_setting_can_be_read_by_the_webui(value: str) -> None:
    assert of_the_webui(infotext(request(), {"Model": value, "Plan": "ten"})).items() >= {
        ("Model", value),
        ("Plan", "ten"),
    }


def test_guess_mode_is_the_webuis_third_mode() -> None:
    text = infotext(request(guess_mode=True), {})
    assert "Control Mode: ControlNet is more important" in of_the_webui(text)["ControlNet 0"]


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0" + bytes(100)])
def test_files_that_are_no_png(content: bytes) -> None:
    with pytest.raises(ValueError, match="damaged file or no PNG file, expected a picture that was made here"):
        load(content)


def test_other_formats_are_refused() -> None:
    file = io.BytesIO()
    Image.fromarray(PICTURE).save(file, "JPEG")
    with pytest.raises(ValueError, match="no PNG file"):
        load(file.getvalue())


def test_a_damaged_chunk() -> None:
    content = bytearray(png(PICTURE, request(), SETTINGS))
    content[content.index(EXACT.encode()) + 40] ^= 1
    with pytest.raises(ValueError, match="damaged file or no PNG file"):
        load(bytes(content))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (with_chunk(None), "without parameters"),
        (with_chunk("a bird\nSteps: 20, Seed: 1", "parameters"), "without parameters"),
        (with_chunk("{"), "damaged .*not valid JSON"),
        (with_chunk("[" * 100_000), "damaged .*nested too deeply"),
        (with_chunk("7"), "damaged .*not a JSON object"),
        (with_chunk('{"seed": NaN}'), "damaged .*not finite"),
        (with_chunk("{}"), "another version"),
        (with_chunk(exact(more=1)), "another version"),
        (with_chunk(exact(settings=None)), "another version"),
        (with_chunk(exact(settings=[])), "another version"),
        (with_chunk(exact(settings={"Plan": 7})), "another version"),
        (with_chunk(exact(prompt="x" * 2**20)), "without parameters|no PNG"),
    ],
)
def test_foreign_and_damaged_parameters(content: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        load(content)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_a_compressed_bomb_is_refused() -> None:
    content = with_chunk(None)
    text = b"zTXt" + EXACT.encode() + b"\0\0" + zlib.compress(bytes(200 * 2**20))
    chunk = (len(text) - 4).to_bytes(4, "big") + text + zlib.crc32(text).to_bytes(4, "big")
    with pytest.raises(ValueError, match=r"no PNG file|without parameters"):
        load(content[:33] + chunk + content[33:])


def test_values_are_checked_by_request() -> None:
    values = load(with_chunk(exact(seed="seven")))
    del values["settings"]
    with pytest.raises(TypeError, match="seed: got 'seven'"):
        Request(PICTURE, **values)
