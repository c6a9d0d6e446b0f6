"""Finds which steps a plan evaluates.

A beam of the best beginnings finds the steps for all numbers of evaluations in one pass, elimination judges whole
lists, and moving single steps betters what they found.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from plans.routes import END, Route, Routes


def beam_search(
    routes: Routes, most: int, width: int, tell: Callable[[], object] = lambda: None
) -> dict[int, list[Route]]:
    """The best whole routes found for each number of evaluations up to `most`, at most `width` of each, best first.

    tell: is called after every evaluation of the network.
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
    """How often `beam_search` calls `tell`, if every index is reached by `width` routes; a bit less in truth."""
    return 1 + width * sum(steps - calls for calls in range(1, most))


def eliminate(
    steps: int, least: int, score: Callable[[Sequence[int]], float], tell: Callable[[], object] = lambda: None
) -> dict[int, tuple[int, ...]]:
    """From all steps down to `least`, each time without the one whose loss costs the least; lists by their length.

    Slower than a beam, but it judges by the end: what is near the whole run half-way may yet end elsewhere.
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
    """Move one step after another by one or two while the score, less is better, gets better."""
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
    """Each step but the first moved by one or two, where that leaves them in order."""
    for place in range(1, len(evaluated)):
        for move in (-2, -1, 1, 2):
            moved = (*evaluated[:place], evaluated[place] + move, *evaluated[place + 1 :])
            if moved[-1] >= 0 and all(before > after for before, after in pairwise(moved)):
                yield moved
