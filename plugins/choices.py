"""Choices between kernels that depend on the GPU. python -m build makes them by timing (`build/choices.py`)."""

from dataclasses import dataclass

Choices = dict[str, int]  # answers by question
CHOICES: Choices = {}  # for the engines that this process compiles


@dataclass(frozen=True)
class Choice:
    """A question, its possible answers, and the answer without timing."""

    question: str
    answers: tuple[int, ...]
    otherwise: int


def chosen(choice: Choice) -> int:
    """Return the answer that timing has found, else the other."""
    return CHOICES.get(choice.question, choice.otherwise)
