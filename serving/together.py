"""Draws several requests at once, and each alone if they cannot be drawn together."""

import logging
from collections.abc import Sequence

import torch

from canny2image_TRT import hackathon
from cldm.canny import Picture
from cldm.request import Request

log = logging.getLogger(__name__)


def draw_together(
    runtime: hackathon, requests: Sequence[Request], plan: str | None = None
) -> list[list[Picture] | Exception]:
    """Return the pictures of each request, or the error that it has alone. Raises RuntimeError if the device fails."""
    try:
        return [*runtime.process_many(requests, plan)]
    except (ValueError, TypeError, torch.OutOfMemoryError) as error:
        if len(requests) == 1:
            return [error]
        reason = " ".join(str(error).split())
        log.warning("%d requests cannot be drawn together (%s): drawing each alone", len(requests), reason)
    return [result for request in requests for result in draw_together(runtime, [request], plan)]
