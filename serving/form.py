"""What a user enters on the page: the request and the choice of weights that it stands for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cldm.arguments import check_boolean
from cldm.canny import Picture
from cldm.request import CONTEST, Request, drawn
from reading import shown
from serving.studio import Choice, Loras
from serving.uploads import MOST_BYTES, decode

MOST_STEPS = 100
MOST_PIXELS = 2**20  # of a generated picture


@dataclass(frozen=True)
class Form:
    """The fields of the page, not checked. picture: the path of a file. edge_map: whether it is an edge map."""

    picture: str | None
    edge_map: bool
    prompt: str
    a_prompt: str
    n_prompt: str
    low_threshold: float
    high_threshold: float
    strength: float
    guess_mode: bool
    scale: float
    seed: int
    eta: float
    ddim_steps: int
    image_resolution: int
    plan: str
    model: str
    loras: Sequence[str]
    lora_strengths: str

    def request(self) -> Request:
        """Return the request; a seed of -1 is replaced. Raises ValueError or TypeError in one sentence."""
        said = {name: value for name, value in vars(self).items() if name in CONTEST}
        said |= {"num_samples": 1, "seed": drawn(self.seed)}
        if check_boolean("edge_map", self.edge_map):
            said |= {"low_threshold": None, "high_threshold": None}
        request = Request.contest(read_picture(self.picture), **said)
        check_limits(request)
        return request

    def choice(self) -> Choice:
        """Return the plan, weights and LoRAs. Raises ValueError or TypeError for unusable strengths."""
        return Choice(self.plan, self.model, with_strengths(self.loras, self.lora_strengths))


def read_picture(file: str | None) -> Picture:
    """Return the RGB picture in an uploaded file. Raises ValueError if there is none, or it cannot be used."""
    if file is None:
        raise ValueError("picture: got none, expected one: upload a file, paste one, or choose an example")
    return decode(read_upload(file, "picture"), "picture")


def read_upload(file: str, name: str) -> bytes:
    """Return the bytes of an uploaded file; of one that is too large, one more than are allowed.

    name: of the argument, for messages. Raises ValueError if it is gone: uploads are deleted after a while.
    """
    try:
        with Path(file).open("rb") as opened:
            return opened.read(MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise ValueError(f"{name}: the file was deleted here a while after its upload: choose it again") from error


def check_limits(request: Request) -> None:
    """Raise ValueError for work that would keep other users waiting too long."""
    height, width = request.size
    if height * width > MOST_PIXELS:
        raise ValueError(
            f"image_resolution: {request.image_resolution} gives a picture of {height} x {width}, expected at most "
            f"{MOST_PIXELS} pixels here: use a smaller image_resolution, or crop the picture"
        )
    if request.ddim_steps > MOST_STEPS:
        raise ValueError(f"ddim_steps: got {request.ddim_steps}, expected at most {MOST_STEPS} here: use fewer")


def with_strengths(names: Sequence[str], text: str) -> Loras:
    """Return LoRAs with their strengths: text has one number for all of them, or one for each."""
    if not names:
        return ()
    try:
        strengths = [float(number) for number in text.replace(",", " ").split()]
    except (AttributeError, ValueError):
        strengths = []
    if len(strengths) == 1:
        strengths *= len(names)
    if len(strengths) != len(names):
        each = f", or {len(names)} numbers, one for each LoRA" if len(names) > 1 else ""
        raise ValueError(f"LoRA strengths: got {shown(text)}, expected one number such as 0.8{each}")
    return tuple(zip(names, strengths, strict=True))
