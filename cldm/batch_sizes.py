"""Divides requests into batches of few sizes, because each size needs its own engines and graph."""

from collections.abc import Sequence
from dataclasses import replace

from cldm.request import Request

BATCHES = (1, 2, 4, 8)  # pictures


def split(requests: Sequence[Request], sizes: Sequence[int]) -> list[list[Request]]:
    """Split requests, in their order, into batches of at most the largest of `sizes` pictures.

    A request with more samples is a batch of its own.
    """
    batches: list[list[Request]] = []
    room = 0
    for request in requests:
        if request.num_samples > room:
            batches.append([])
            room = max(sizes)
        batches[-1].append(request)
        room -= request.num_samples
    return batches


def padded(batch: Sequence[Request], sizes: Sequence[int]) -> list[Request]:
    """Return the batch, filled up to the next of `sizes` with its last request; more pictures stay as they are."""
    count = sum(request.num_samples for request in batch)
    missing = min((size for size in sizes if size >= count), default=count) - count
    if not missing:
        return [*batch]
    return [*batch, *missing * [replace(batch[-1], num_samples=1)]]
