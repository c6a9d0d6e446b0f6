"""Translates txt2img of AUTOMATIC1111's WebUI, with one ControlNet unit, into requests.

What has no effect on the picture here or there is accepted. What has one that cannot be given gets a sentence.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cldm.arguments import REAL, WHOLE, Range, check_number, check_text, check_whole
from cldm.request import drawn
from reading import shown
from serving.service import Asked
from serving.webui_unit import Control, or_usual, read_unit
from serving.whole_prompt import WholePrompt

SIDE = Range(64, 4096)
OURS = {
    "prompt", "negative_prompt", "seed", "steps", "cfg_scale", "width", "height", "batch_size", "n_iter", "eta",
    "sampler_name", "sampler_index", "scheduler", "override_settings", "override_settings_restore_afterwards",
    "send_images", "alwayson_scripts",
}  # fmt: skip
# Fields that have no effect unless another one, which is refused, switches it on; or that concern files, which this
# server does not write.
WITHOUT_EFFECT = {
    "denoising_strength", "firstphase_width", "firstphase_height", "hr_scale", "hr_upscaler", "hr_second_pass_steps",
    "hr_resize_x", "hr_resize_y", "hr_checkpoint_name", "hr_sampler_name", "hr_scheduler", "hr_prompt",
    "hr_negative_prompt", "hr_additional_modules", "hr_cfg", "hr_distilled_cfg", "subseed", "s_churn", "s_tmax",
    "s_tmin", "s_noise", "s_min_uncond", "do_not_save_samples", "do_not_save_grid", "script_args", "force_task_id",
    "refiner_switch_at", "comments",
}  # fmt: skip
# Fields with the only values that can be honoured.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "enable_hr": (False, None),
    "styles": ([], None),
    "subseed_strength": (0, None),
    "seed_resize_from_h": (0, -1, None),
    "seed_resize_from_w": (0, -1, None),
    "restore_faces": (False, None),
    "tiling": (False, None),
    "save_images": (False, None),
    "script_name": ("", None),
    "refiner_checkpoint": ("", "None", None),
    "firstpass_image": ("", None),
    "disable_extra_networks": (False, None),
    "infotext": ("", None),
}
SAMPLERS = ("DDIM",)
SCHEDULERS = ("automatic", "uniform", "ddim")
SETTINGS: dict[str, tuple[Any, ...]] = {
    "sd_vae": ("Automatic", "None", None),
    "CLIP_stop_at_last_layers": (1,),
    "samples_format": ("png",),
}


def read_txt2img(values: Mapping[str, Any], most: int) -> list[Asked]:
    """Return one request per picture: picture i has seed + i, as in the WebUI. most: pictures in all.

    Raise ValueError or TypeError for what cannot be honoured.
    """
    check_fields(values)
    control = _unit(values.get("alwayson_scripts"))
    size = tuple(check_whole(name, or_usual(values, name, 512), SIDE) for name in ("height", "width"))
    count = math.prod(check_whole(name, or_usual(values, name, 1), Range(1, most)) for name in ("batch_size", "n_iter"))
    check_whole("batch_size x n_iter", count, Range(1, most))
    checkpoint = _checkpoint(values.get("override_settings"))
    request = _request(values, control, min(size))
    check_size(request.size, size)
    return [Asked(replace(request, seed=request.seed + i), checkpoint=checkpoint) for i in range(count)]


def check_fields(values: Mapping[str, Any]) -> None:
    """Raise ValueError for a field that cannot be honoured."""
    for name, value in values.items():
        if name in NEUTRAL and value not in NEUTRAL[name]:
            raise ValueError(f"{name}: got {shown(value)}, which is not supported here: leave it out")
        if name not in OURS | WITHOUT_EFFECT | NEUTRAL.keys():
            raise ValueError(f"got the field {shown(name)}, which is not supported here: leave it out")
        if name in WITHOUT_EFFECT and not _is_text(value):
            raise ValueError(f"{name}: got half of a surrogate pair, expected Unicode text: leave it out")
    _check_choice("sampler_name", values.get("sampler_name") or values.get("sampler_index"), SAMPLERS)
    _check_choice("scheduler", values.get("scheduler"), SCHEDULERS)


def _is_text(value: Any) -> bool:
    """Return whether all text within a JSON value can be sent back in the answer."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def check_size(size: tuple[int, int], asked: tuple[int, ...]) -> None:
    """Raise ValueError if a picture of another size was asked for. Sizes are (height, width)."""
    if size != asked:
        raise ValueError(
            f"width, height: got {asked[1]} x {asked[0]}, but this control image gives {size[1]} x {size[0]}: ask for "
            "that size, or crop the image to the aspect ratio"
        )


def check_settings(settings: Any, name: str) -> dict[str, Any]:
    """Return the WebUI's settings in a field. Raise TypeError or ValueError for those that cannot be honoured."""
    if not isinstance(settings, dict):
        raise TypeError(f"{name}: got {shown(settings)}, expected an object")
    for key, value in settings.items():
        if key != "sd_model_checkpoint" and value not in SETTINGS.get(key, ()):
            raise ValueError(f"{name}: got {shown(key)} = {shown(value)}, which is not supported here: leave it out")
    if not isinstance(settings.get("sd_model_checkpoint"), (str, type(None))):
        raise TypeError(f"sd_model_checkpoint: got {shown(settings['sd_model_checkpoint'])}, expected a name")
    return settings


def _request(values: Mapping[str, Any], control: Control, resolution: int) -> WholePrompt:
    picture, edges = control.inputs(resolution)
    return WholePrompt(
        input_image=picture,
        edges=edges,
        prompt=or_usual(values, "prompt", ""),
        a_prompt="",
        n_prompt=check_text("negative_prompt", or_usual(values, "negative_prompt", "")),
        num_samples=1,
        image_resolution=resolution,
        ddim_steps=check_whole("steps", or_usual(values, "steps", 50), WHOLE["ddim_steps"]),
        guess_mode=control.guess_mode,
        strength=control.strength,
        scale=check_number("cfg_scale", or_usual(values, "cfg_scale", 7.0), REAL["scale"]),
        seed=drawn(or_usual(values, "seed", -1)),
        eta=or_usual(values, "eta", 0.0),
        low_threshold=control.low,
        high_threshold=control.high,
    )


def _unit(scripts: Any) -> Control:
    if not isinstance(scripts, (dict, type(None))):
        raise TypeError(f"alwayson_scripts: got {shown(scripts)}, expected an object")
    for name, script in (scripts or {}).items():
        if name.lower() != "controlnet":
            raise ValueError(f"alwayson_scripts: got {shown(name)}, expected ControlNet alone: leave it out")
        if not isinstance(script, dict) or not isinstance(script.get("args"), list):
            raise TypeError(f'alwayson_scripts: got {shown(script)} for ControlNet, expected {{"args": [one unit]}}')
        units = [unit for unit in script["args"] if not (isinstance(unit, dict) and unit.get("enabled") is False)]
        if len(units) == 1:
            return read_unit(units[0])
        raise ValueError(f"ControlNet: got {len(units)} units, expected one: this server draws from edges")
    raise ValueError("ControlNet: got no unit, expected one with an image: this server draws from edges")


def _check_choice(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value and (not isinstance(value, str) or value.lower() not in [one.lower() for one in known]):
        raise ValueError(f"{name}: got {shown(value)}, expected {known[0]}")


def _checkpoint(settings: Any) -> str | None:
    if settings is None:
        return None
    return check_settings(settings, "override_settings").get("sd_model_checkpoint") or None
