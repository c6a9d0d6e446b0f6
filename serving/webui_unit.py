"""A unit of the WebUI's ControlNet extension, as far as Canny edges and own edge maps go."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cldm.arguments import REAL, THRESHOLD, Range, check_number, check_whole
from cldm.canny import Picture, canny, hwc3, resize
from reading import shown
from serving.uploads import decode_base64

MODULES = ("canny", "none")
MODEL = "canny"  # the ControlNet of the weights; other names with this word mean it, too
RESOLUTION = Range(64, 4096)
USUAL = {"processor_res": 512, "threshold_a": 100, "threshold_b": 200}  # what the WebUI takes for -1
KNOWN = {
    "image", "input_image", "module", "model", "weight", "processor_res", "threshold_a", "threshold_b",
    "pixel_perfect", "control_mode", "guidance_start", "guidance_end", "enabled",
    # without effect: the image has the aspect ratio of the picture, and there is no second pass
    "resize_mode", "low_vram", "lowvram", "hr_option",
}  # fmt: skip
GUESS = {"Balanced": False, 0: False, "ControlNet is more important": True, 2: True}


@dataclass(frozen=True)
class Control:
    """image: uint8 [h, w, 3]. low, high: thresholds, None for an edge map. processor_res: of Canny; None: the
    picture's."""

    image: Picture
    low: float | None
    high: float | None
    processor_res: int | None
    strength: float
    guess_mode: bool

    def inputs(self, resolution: int) -> tuple[Picture | None, Picture | None]:
        """Return input_image and edges for a picture of this image_resolution."""
        if self.low is None or self.high is None:
            return None, self.image
        if self.processor_res in (None, resolution):
            return self.image, None
        assert self.processor_res is not None
        return self.image, canny(resize(hwc3(self.image), self.processor_res), self.low, self.high)


def read_unit(unit: Any) -> Control:
    """Return what a unit asks for. Raise TypeError or ValueError for what cannot be honoured."""
    if not isinstance(unit, dict):
        raise TypeError(f"ControlNet: got {shown(unit)}, expected an object")
    for name, value in unit.items():
        if name not in KNOWN and value not in (None, "", False, []):
            raise ValueError(f"ControlNet: got {shown(name)} = {shown(value)}, which is not supported: leave it out")
    for name, only in (("guidance_start", 0), ("guidance_end", 1)):
        if unit.get(name, only) not in (only, None):
            raise ValueError(f"{name}: got {shown(unit[name])}, expected {only}: the edges guide all steps")
    module, image = read_module(unit.get("module")), read_image(unit.get("image") or unit.get("input_image"))
    _check_model(unit.get("model"))
    weight = check_number("weight", or_usual(unit, "weight", 1.0), REAL["strength"])
    low = high = resolution = None
    if module == "canny":
        low, high = (read_threshold(unit, name) for name in ("threshold_a", "threshold_b"))
        resolution = None if unit.get("pixel_perfect") else read_resolution(unit, "processor_res")
    return Control(image, low, high, resolution, weight, _guess_mode(unit.get("control_mode")))


def read_module(module: Any) -> str:
    """Return "canny" or "none". Raise ValueError for any other preprocessor."""
    name = module.lower() if isinstance(module, str) else module
    if name is not None and name not in MODULES:
        raise ValueError(f"module: got {shown(module)}, expected canny, or none for an edge map of your own")
    return name or "none"


def read_image(image: Any) -> Picture:
    """Return the control image. Raise TypeError or ValueError."""
    if isinstance(image, dict):
        if image.get("mask"):
            raise ValueError("mask: got a picture, expected none: masks are not supported")
        image = image.get("image")
    if not image or not isinstance(image, str):
        raise TypeError(f"image: got {shown(image)}, expected a picture in base64")
    return decode_base64(image, "image")


def read_threshold(values: Mapping[str, Any], name: str) -> float:
    """Return a threshold of Canny. Raise TypeError or ValueError."""
    value = check_number(name, or_usual(values, name, -1), THRESHOLD)
    return USUAL[name.removeprefix("controlnet_")] if value == -1 else value


def read_resolution(values: Mapping[str, Any], name: str) -> int:
    """Return the resolution at which Canny works. Raise TypeError or ValueError."""
    value = or_usual(values, name, -1)
    return USUAL["processor_res"] if value == -1 else check_whole(name, value, RESOLUTION)


def _check_model(model: Any) -> None:
    if model not in (None, "", "None") and not (isinstance(model, str) and MODEL in model.lower()):
        raise ValueError(f"model: got {shown(model)}, expected {MODEL}, the ControlNet of the weights")


def _guess_mode(mode: Any) -> bool:
    if isinstance(mode, (str, int, type(None))) and (mode is None or mode in GUESS):
        return GUESS[mode or 0]
    raise ValueError(f"control_mode: got {shown(mode)}, expected Balanced or 'ControlNet is more important'")


def or_usual(values: Mapping[str, Any], name: str, usual: Any) -> Any:
    """Return a value, or the usual one if it is missing or null."""
    value = values.get(name)
    return usual if value is None else value
