"""The routes that list what the server has for clients of the WebUI."""

import os
import resource
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse

from serving.service import Service
from serving.webui import SAMPLERS, SCHEDULERS
from serving.webui_unit import MODEL, MODULES


def add_lists(router: APIRouter, service: Service) -> None:
    """Add the routes to a router."""
    lists: dict[str, Any] = {
        "/sdapi/v1/scripts": {"txt2img": ["controlnet", "controlnet m2m"], "img2img": []},
        "/sdapi/v1/samplers": [{"name": name, "aliases": [name.lower()], "options": {}} for name in SAMPLERS],
        "/sdapi/v1/schedulers": [{"name": name, "label": name.capitalize()} for name in SCHEDULERS],
        "/sdapi/v1/sd-vae": [],
        "/sdapi/v1/upscalers": [],
        "/sdapi/v1/hypernetworks": [],
        "/sdapi/v1/prompt-styles": [],
        "/sdapi/v1/cmd-flags": {"api": True},
        "/controlnet/version": {"version": 2},
        "/controlnet/model_list": {"model_list": [MODEL]},
        "/controlnet/module_list": {"module_list": list(MODULES)},
    }
    for path, content in lists.items():
        router.add_api_route(path, _always(content), name=path)

    @router.get("/sdapi/v1/sd-models")
    async def models() -> JSONResponse:
        """Return the checkpoints that may be chosen."""
        return JSONResponse([_model(name) for name in service.offered.checkpoint_names])

    @router.get("/sdapi/v1/loras")
    async def loras() -> JSONResponse:
        """Return the LoRAs that may stand in prompts."""
        names = service.offered.loras.names
        return JSONResponse([{"name": name, "alias": name, "path": name, "metadata": {}} for name in names])

    @router.get("/sdapi/v1/embeddings")
    async def embeddings() -> JSONResponse:
        """Return the words for prompts that the server was started with."""
        names = [Path(file).stem for file in service.options.embeddings]
        return JSONResponse({"loaded": {name: {} for name in names}, "skipped": {}})

    @router.get("/sdapi/v1/memory")
    async def memory() -> JSONResponse:
        """Return the memory of the process that answers; replicas may be on other machines."""
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        used = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return JSONResponse({"ram": {"free": total - used, "used": used, "total": total}, "cuda": {}})


def _always(content: Any) -> Any:
    async def route() -> JSONResponse:
        return JSONResponse(content)

    return route


def _model(name: str) -> dict[str, Any]:
    return {"title": name, "model_name": name, "hash": None, "sha256": None, "filename": name, "config": None}
