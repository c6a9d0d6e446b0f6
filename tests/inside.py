"""Access to the internals of a runtime, for tests."""

from typing import Any

from canny2image_TRT import hackathon
from cldm.pipeline import Pipeline
from cldm.pipeline_cache import Pipelines


def pipelines_of(runtime: hackathon) -> Pipelines:
    assert runtime._pipelines is not None
    return runtime._pipelines


def last_of(runtime: hackathon) -> Pipeline:
    """Return the pipeline of the last picture."""
    last = pipelines_of(runtime).last
    assert last is not None
    return last


def engines_of(runtime: hackathon) -> list[Any]:
    return list(last_of(runtime).engines.values())
