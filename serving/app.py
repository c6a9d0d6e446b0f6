"""The ASGI app of a server: all routes, behind the front."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from serving import pictures_api, webui_api
from serving.front import Front
from serving.listening import KEY
from serving.options import Options
from serving.service import Replicas, Service

TITLE = "canny2image"


def make_app(options: Options, replicas: Replicas, workers: int, answer_ids: bool = False) -> FastAPI:
    """Return the app. workers: number of replicas. The key comes from the environment.

    answer_ids: return the ids of requests to their clients, as Ray Serve's proxies do.
    """
    service = Service(options, replicas)
    app = FastAPI(title=TITLE, lifespan=_lifespan(service, workers), docs_url=None, redoc_url=None)
    app.add_middleware(Front, service.metrics, os.environ.get(KEY, ""), options.most_bytes, answer_ids)
    app.add_exception_handler(HTTPException, _raise)  # the front answers
    app.include_router(pictures_api.routes(service))
    app.include_router(webui_api.routes(service))
    _add_state(app, service, workers)
    return app


def _add_state(app: FastAPI, service: Service, workers: int) -> None:
    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        """Answer, because the process lives."""
        return JSONResponse({"status": "alive"})

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        """Answer with status 200 if a replica can generate pictures, else 503."""
        running = await service.replicas.running() if service.dispatcher else 0
        content = {"status": "ready" if running else "starting", "replicas": running, "expected": workers}
        return JSONResponse(content, 200 if running else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Return the metrics in Prometheus' format."""
        waiting = len(service.dispatcher.waiting) if service.dispatcher else 0
        return Response(service.metrics.text(waiting), media_type="text/plain; version=0.0.4")


def _lifespan(service: Service, workers: int):  # type: ignore[no-untyped-def]
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(service.start(workers))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    return lifespan


async def _raise(request: Request, error: Exception) -> Response:
    raise error
