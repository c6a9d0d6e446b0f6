"""The routes /sdapi/v1 and /controlnet of the WebUI that its clients call around txt2img."""

import asyncio
import base64
import io
import json
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from PIL import Image
from starlette.responses import JSONResponse

from cldm.canny import canny, hwc3, resize
from reading import shown
from serving import schemas
from serving.large_json import LargeJSON
from serving.parameters import WEBUI, chunks, infotext
from serving.pictures_api import encoded, note, read_json
from serving.service import Made, Service
from serving.uploads import decode_base64, read_base64
from serving.webui import SAMPLERS, check_settings, read_txt2img
from serving.webui_lists import add_lists
from serving.webui_unit import read_module, read_resolution, read_threshold

ANY = schemas.responses({})


def routes(service: Service) -> APIRouter:
    router = APIRouter(responses=ANY)
    _add_pictures(router, service)
    _add_settings(router, service)
    add_lists(router, service)
    return router


def _add_pictures(router: APIRouter, service: Service) -> None:
    @router.post("/sdapi/v1/txt2img", openapi_extra=schemas.ANY_OBJECT)
    async def txt2img(request: Request) -> JSONResponse:
        """Generate pictures from one ControlNet unit and a prompt."""
        return await service.limited(lambda: _txt2img(service, request))

    @router.post("/controlnet/detect", openapi_extra=schemas.ANY_OBJECT)
    async def detect(request: Request) -> JSONResponse:
        """Return the edge maps of pictures."""

        async def work() -> JSONResponse:
            values = await read_json(request)
            return LargeJSON({"images": await asyncio.to_thread(_detect, values), "info": "Success"})

        return await service.limited(work)

    @router.post("/sdapi/v1/png-info", openapi_extra=schemas.ANY_OBJECT)
    async def png_info(request: Request) -> JSONResponse:
        """Return the parameters in a PNG file."""

        async def work() -> JSONResponse:
            items = chunks(read_base64((await read_json(request)).get("image"), "image"))
            return JSONResponse({"info": items.get(WEBUI, ""), "items": items, "parameters": {}})

        return await service.limited(work)


def _add_settings(router: APIRouter, service: Service) -> None:
    @router.get("/sdapi/v1/options")
    async def options() -> JSONResponse:
        """Return the settings that can be changed, or that clients read."""
        name = service.offered.checkpoint_name(service.queue.weights.checkpoint)
        fixed = {"sd_vae": "Automatic", "CLIP_stop_at_last_layers": 1, "samples_format": "png"}
        return JSONResponse({"sd_model_checkpoint": name, **fixed})

    @router.post("/sdapi/v1/options", openapi_extra=schemas.ANY_OBJECT)
    async def set_options(request: Request) -> JSONResponse:
        """Change the checkpoint of all replicas."""
        settings = check_settings(await service.limited(lambda: read_json(request)), "options")
        await service.change(settings.get("sd_model_checkpoint"), None)
        return JSONResponse({})

    @router.get("/sdapi/v1/progress")
    async def progress() -> JSONResponse:
        """Return how many requests are here; the progress of one is not known."""
        state = {"skipped": False, "interrupted": False, "job": "", "job_count": service.now, "job_no": 0}
        state |= {"job_timestamp": "0", "sampling_step": 0, "sampling_steps": 0}
        content = {"progress": 0.0, "eta_relative": 0.0, "state": state, "current_image": None, "textinfo": None}
        return JSONResponse(content)

    @router.post("/sdapi/v1/interrupt")
    @router.post("/sdapi/v1/skip")
    async def interrupt() -> None:
        """Refuse: the pictures of other clients would stop."""
        raise ValueError("interrupt: it would stop the pictures of other clients: close your own connection instead")

    @router.post("/sdapi/v1/refresh-checkpoints")
    @router.post("/sdapi/v1/refresh-loras")
    async def refresh() -> JSONResponse:
        """Do nothing: the folders are read at each request."""
        return JSONResponse({})


async def _txt2img(service: Service, request: Request) -> JSONResponse:
    values = await read_json(request)
    asked = await asyncio.to_thread(read_txt2img, values, service.options.most_samples)
    if asked[0].checkpoint and values.get("override_settings_restore_afterwards") is False:
        await service.change(asked[0].checkpoint, None)
    made = await service.draw(asked)
    note(request, made)
    return await asyncio.to_thread(_response, values, made)


def _response(values: Mapping[str, Any], made: list[Made]) -> JSONResponse:
    """Return what the WebUI would: the pictures, the fields that were sent without pictures, and the parameters."""
    first, seeds = made[0].asked, [one.asked.seed for one in made]
    prompts, count = [one.asked.prompt for one in made], len(made)
    info = {
        "prompt": first.prompt,
        "all_prompts": prompts,
        "negative_prompt": first.n_prompt,
        "all_negative_prompts": [first.n_prompt] * count,
        "seed": first.seed,
        "all_seeds": seeds,
        "subseed": -1,
        "all_subseeds": [-1] * count,
        "subseed_strength": 0,
        "width": first.size[1],
        "height": first.size[0],
        "sampler_name": SAMPLERS[0],
        "cfg_scale": first.scale,
        "steps": first.ddim_steps,
        "batch_size": count,
        "sd_model_name": made[0].settings["Model"],
        "index_of_first_image": 0,
        "infotexts": [infotext(one.asked, one.settings) for one in made],
        "styles": [],
        "clip_skip": 1,
    }
    images = [] if values.get("send_images") is False else [file for one in made for file in encoded(one)]
    parameters = {name: value for name, value in values.items() if name != "alwayson_scripts"}
    return LargeJSON({"images": images, "parameters": parameters, "info": json.dumps(info)})


def _detect(values: Mapping[str, Any]) -> list[str]:
    if read_module(values.get("controlnet_module")) != "canny":
        raise ValueError(f"controlnet_module: got {shown(values.get('controlnet_module'))}, expected canny")
    low, high = (read_threshold(values, f"controlnet_threshold_{which}") for which in "ab")
    resolution = read_resolution(values, "controlnet_processor_res")
    images = values.get("controlnet_images")
    if not isinstance(images, list) or not images:
        raise TypeError(f"controlnet_images: got {shown(images)}, expected a list of pictures in base64")
    pictures = [decode_base64(image, "controlnet_images") for image in images]
    return [_png(canny(resize(hwc3(picture), resolution), low, high)) for picture in pictures]


def _png(edges: Any) -> str:
    file = io.BytesIO()
    Image.fromarray(edges).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
