"""Searches for the steps that a plan evaluates.

Beam search over beginnings finds steps for all numbers of evaluations in one pass. Elimination removes steps from the
full list. Hill climbing improves a list by moving single steps.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from plans.routes import END, Route, Routes


def beam_search(
    routes: Routes, most: int, width: int, tell: Callable[[], object] = lambda: None
) -> dict[int, list[Route]]:
    """Return the best complete routes for each number of evaluations from 1 to `most`: at most `width`, best first.

    tell: called after each beginning has been continued to all later indices.
    """
    ahead: list[tuple[int, ...]] = [(routes.schedule.steps - 1,)]
    complete: dict[int, list[Route]] = {}
    for calls in range(1, most + 1):
        reached: dict[int, list[Route]] = {}
        for evaluated in ahead:
            for end in range(END, evaluated[-1]):
                reached.setdefault(end, []).append(routes.go(evaluated, end))
            tell()
        best = {end: sorted(found, key=routes.error)[:width] for end, found in reached.items()}
        complete[calls] = best.pop(END)
        ahead = [(*route.evaluated, end) for end, found in best.items() for route in found]
    return complete


def evaluations_of_a_beam(steps: int, most: int, width: int) -> int:
    """Return an upper bound on the calls of `tell` in `beam_search`; it assumes `width` routes to every index."""
    return 1 + width * sum(steps - calls for calls in range(1, most))


def eliminate(
    steps: int, least: int, score: Callable[[Sequence[int]], float], tell: Callable[[], object] = lambda: None
) -> dict[int, tuple[int, ...]]:
    """Remove steps from the full list until `least` are left, each time the one whose removal gives the lowest score.

    Return the lists by length. The first step is never removed. tell: called after each score. Slower than beam search,
    but compares complete lists: a beginning that is close to the whole run may still end far from it.
    """
    left = tuple(range(steps))[::-1]
    found = {steps: left}
    while len(left) > least:
        scores = {}
        for place in range(1, len(left)):
            without = (*left[:place], *left[place + 1 :])
            scores[without] = score(without)
            tell()
        left = min(scores, key=lambda one: scores[one])
        found[len(left)] = left
    return found


def climb(
    evaluated: Sequence[int], score: Callable[[Sequence[int]], float], tell: Callable[[], object] = lambda: None
) -> tuple[int, ...]:
    """Move single steps by one or two for as long as this lowers the score, and return the resulting list.

    tell: called before each score except the first.
    """
    best, value = tuple(evaluated), score(evaluated)
    while True:
        before = best
        for neighbour in _neighbours(before):
            tell()
            if (found := score(neighbour)) < value:
                best, value = neighbour, found
        if best == before:
            return best


def _neighbours(evaluated: tuple[int, ...]) -> Iterable[tuple[int, ...]]:
    """Yield the lists in which one step, never the first, is moved by one or two and the order is kept."""
    for place in range(1, len(evaluated)):
        for move in (-2, -1, 1, 2):
            moved = (*evaluated[:place], evaluated[place] + move, *evaluated[place + 1 :])
            if moved[-1] >= 0 and all(before > after for before, after in pairwise(moved)):
                yield moved
