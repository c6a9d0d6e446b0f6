"""Replicas in the processes of Ray Serve, on one machine or several."""

import asyncio
import logging
import math
from collections.abc import Sequence
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.handle import DeploymentHandle

from cldm.request import Request
from serving.app import make_app
from serving.dispatch import Batch, Weights
from serving.errors import Unavailable
from serving.options import Options
from serving.replica import Replica

log = logging.getLogger(__name__)

NAME = "Replica"
HEAD = "node:__internal_head__"  # Ray's resource of the head node, without which the server would not work anyway
ATTEMPTS = 5  # of a batch; Ray Serve replaces a dead replica within seconds


class RankedReplica(Replica):
    """A replica that knows its rank, from 0, among all replicas."""

    def __init__(self, options: Options) -> None:
        logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
        super().__init__(options)

    async def change_at(self, rank: int, weights: Weights) -> Exception | None:
        """Change the weights if this replica has the rank. Returns what `change` raises."""
        try:
            if serve.get_replica_context().rank.rank == rank:
                await self.change(weights)
        except (ValueError, TypeError) as error:
            return error
        return None


class RayReplicas:
    """See serving.service.Replicas. count: the number of replicas."""

    def __init__(self, handle: "DeploymentHandle[Any]", app_name: str, count: int) -> None:
        self.handle, self.app_name, self.count = handle, app_name, count

    async def about(self) -> Weights:
        weights: Weights = await self._tried("about")
        return weights

    async def draw(self, requests: Sequence[Request], plan: str | None, weights: Weights) -> Batch:
        batch: Batch = await self._tried("draw", list(requests), plan, weights)
        return batch

    async def change(self, weights: Weights) -> None:
        for rank in range(self.count):
            call = self.handle.broadcast("change_at", rank, weights)
            for result in await call.results_async(return_exceptions=True):
                if isinstance(result, RayError):
                    log.warning("a replica died during a change of weights (%s); its next batch changes them", result)
                elif isinstance(result, Exception):
                    raise result

    async def running(self) -> int:
        status = await asyncio.to_thread(serve.status)
        states = status.applications[self.app_name].deployments[NAME].replica_states
        return sum(count for state, count in states.items() if state == "RUNNING")

    async def _tried(self, method: str, *arguments: Any) -> Any:
        """Return the result of a method of any free replica; if the replica dies, of another one."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await getattr(self.handle, method).remote(*arguments)
            except RayError as error:  # the errors of requests are results, so this one is the replica's
                log.warning("a replica failed (attempt %d of %d): %s", attempt, ATTEMPTS, error)
            await asyncio.sleep(attempt - 1)
        raise Unavailable(f"{ATTEMPTS} replicas failed one after another: send it again later, or see the server's log")


def replicas(options: Options) -> tuple[serve.Deployment, int]:
    """Return the deployment of the replicas, to be bound to the options, and their number."""
    count, share = shares(options, ray.cluster_resources())
    deployment = serve.deployment(
        name=NAME,
        num_replicas=count,
        max_ongoing_requests=1,  # one batch; the queue is the app's
        ray_actor_options=share,
        health_check_period_s=2,
        graceful_shutdown_timeout_s=options.time_limit,
        logging_config={"enable_access_log": False},  # the front has a line for each request
    )(RankedReplica)
    return deployment, count


def application(options: Options) -> serve.Application:
    """Return the application for a cluster: the replicas, and the ingress that gives them batches."""
    deployment, count = replicas(options)

    def make() -> FastAPI:
        logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
        app_name = serve.get_replica_context().app_name
        handle: DeploymentHandle[Any] = serve.get_deployment_handle(NAME, app_name)
        return make_app(options, RayReplicas(handle, app_name, count), count)

    ingress = serve.deployment(
        name="Ingress",
        max_ongoing_requests=options.queue + 1000,
        ray_actor_options={"num_cpus": 0, "resources": {HEAD: 0.001}},
    )(serve.ingress(make)())
    return ingress.bind(deployment.bind(options))


def shares(options: Options, resources: dict[str, float]) -> tuple[int, dict[str, float]]:
    """Return the number of replicas and the part of the machine for each: of a GPU, else of the CPU's cores."""
    gpus = 0 if options.device == "cpu" else int(resources.get("GPU", 0))
    count = options.replicas or max(1, gpus)
    if gpus:
        return count, {"num_gpus": 1 / math.ceil(count / gpus), "num_cpus": 1}
    cores = resources.get("CPU", 1)
    return count, {"num_cpus": cores // count or cores / count}
