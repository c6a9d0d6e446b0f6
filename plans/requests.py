"""Makes the requests for finding and judging plans, in three folds that share no picture, prompt or seed."""

from collections.abc import Sequence
from pathlib import Path

from cldm.request import Request
from scoring.pictures import find_captions, find_pictures

RESOLUTION = 256  # image_resolution: the shorter side in pixels
FOLDS = ("calibration", "selection", "report")
PROMPTS = (
    "a bird", "a red bird at sunset", "a blue bird", "a mountain", "a green hill by the sea", "a ship", "a flower",
    "a yellow fish", "clouds over a lake",
)  # fmt: skip


def make_requests(fold: str, count: int, folder: Path | None) -> list[Request]:
    """Return `count` requests of one of FOLDS. If there are captions, the prompts are the pictures' captions.

    Pictures and prompts repeat if the fold has fewer than `count`. Raise ValueError if only some pictures have
    captions, or if there are too few pictures or different captions for three folds.
    """
    pictures, captions = find_pictures(folder), find_captions(folder)
    if captions and (bare := [name for name in pictures if name not in captions]):
        raise ValueError(f"pictures: {bare[0]} has no caption file {bare[0]}.txt, but others do: add all captions")
    place, told = FOLDS.index(fold), {name: captions.get(name, name) for name in pictures}
    fold_of: dict[str, int] = {}
    for i, words in enumerate(told.values()):
        fold_of.setdefault(words, i % len(FOLDS))
    names = [name for name, words in told.items() if fold_of[words] == place]
    if not names:
        raise ValueError(
            f"pictures: got {len(fold_of)} (equal captions count once), too few for {len(FOLDS)} disjoint folds; "
            "provide 3 or more, with different captions"
        )
    prompts = [captions[name] for name in names] if captions else PROMPTS[place :: len(FOLDS)]
    return [
        Request.contest(
            pictures[_nth(names, i)], prompt=_nth(prompts, i), seed=1000 * place + i, image_resolution=RESOLUTION
        )
        for i in range(count)
    ]


def _nth(values: Sequence[str], index: int) -> str:
    return values[index % len(values)]
