"""Draws pictures for several users at once: each call has its own weights, plan and result."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from canny2image_TRT import hackathon
from cldm.canny import Picture
from cldm.checkpoint import Checkpoint
from cldm.reference import reference_pictures
from cldm.request import Request
from plans.files import known_plans
from reading import shown
from scoring.timeline import Row
from serving.shelf import Shelf

log = logging.getLogger(__name__)

Loras = tuple[tuple[str, float], ...]  # names and strengths
Say = Callable[[float, str], object]  # called with the part that is done, 0 to 1, and what is being done
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Choice:
    """What a picture is drawn with: names that the studio offers. plan may also be indices such as "19,14,9,4"."""

    plan: str
    model: str
    loras: Loras = ()


@dataclass(frozen=True)
class Drawn:
    """A picture, and all that is needed to compare it. rows: of its timeline, none if it was not asked for."""

    request: Request
    picture: Picture
    checkpoint: Checkpoint
    settings: dict[str, str]
    milliseconds: float
    rows: Sequence[Row]


class Studio:
    """Draws with an initialized runtime, of which it is the only user.

    plan: of the runtime, as it was given. models, loras: what users may choose besides the weights of the start. LoRAs
    and a VAE of the start stay for all.
    """

    def __init__(self, runtime: hackathon, plan: str, models: Shelf, loras: Shelf) -> None:
        self.runtime, self.start, self.shelf, self.loras = runtime, runtime.checkpoint, models, loras
        self.own_model = _short(self.start.name)
        self.own_plan = Path(plan).stem if plan.endswith(".json") else plan
        self.loaded: tuple[str, Sequence[tuple[str, float]]] = (self.start.name, self.start.loras)
        self.lock = threading.Lock()
        self.settings = self._settings(Choice(self.own_plan, self.own_model))
        del self.settings["Evaluates"]  # on a CPU, initialize() evaluates one step only

    @property
    def models(self) -> list[str]:
        """The names of all weights that are offered now; first those of the start."""
        return [self.own_model, *self.shelf.names]

    @property
    def plans(self) -> list[str]:
        """The names of plans that are offered; first that of the start."""
        files = [file.path.stem for file in known_plans(self.start.architecture)]
        return list(dict.fromkeys([self.own_plan, "ten", "all", *files]))

    def draw(self, request: Request, choice: Choice, timeline: bool = False) -> Drawn:
        """Return the first picture of a request. timeline: generate it once more, and measure its stages.

        Raises ValueError for a name that is not offered, and like `hackathon.draw` and `hackathon.load_weights`.
        """
        plan = self._plan(choice.plan)
        with self.lock:
            self._load(choice)
            begin = time.perf_counter()
            picture = self.runtime.draw(request, plan)[0]
            milliseconds = 1000 * (time.perf_counter() - begin)
            self.settings = self._settings(choice)
            rows = self.runtime.timeline() if timeline else []
            return Drawn(request, picture, self.runtime.checkpoint, self.settings, milliseconds, rows)

    def reference(self, drawn: Drawn, say: Say) -> Picture:
        """Return the float32 picture with all steps for the same request and weights. Raises like `draw`."""
        with self.lock:
            say(0.0, "loading the weights in float32")
            tokenizer, model = drawn.checkpoint.checked_tokenizer(), drawn.checkpoint.load_model(self.runtime.device)
            passes, done = 2 * drawn.request.ddim_steps, 0

            def count(*_: object) -> None:
                nonlocal done
                done += 1
                say(min(done / passes, 1.0), "drawing the reference")

            model.unet.register_forward_hook(count)
            return reference_pictures(model, tokenizer, drawn.request, self.runtime.syntax)[0]

    def _plan(self, name: str) -> str | None:
        """Return the plan for the runtime: None for its own. A path would read any file of this machine."""
        if name == self.own_plan:
            return None
        if not isinstance(name, str) or name.endswith(".json"):
            raise ValueError(f"plan: got {shown(name)}, expected {', '.join(self.plans)}, or indices such as 19,14,9,4")
        return name

    def _load(self, choice: Choice) -> None:
        """Load the weights and LoRAs, in the lock, if they are not those in use."""
        name = self.start.name if choice.model == self.own_model else self.shelf.find(choice.model)
        loras = [*self.start.loras, *((self.loras.find(lora), strength) for lora, strength in choice.loras)]
        if name != self.loaded[0]:
            self.runtime.load_weights(name, vae=self.start.vae, loras=loras)
        elif loras != list(self.loaded[1]):
            self.runtime.set_loras(loras)
        self.loaded = (name, loras)

    def _settings(self, choice: Choice) -> dict[str, str]:
        """Return how the last picture was drawn, for people."""
        device, settings = self.runtime.device, self.runtime.settings
        on_gpu = device.type == "cuda"
        loras = " ".join(f"<lora:{name}:{strength:g}>" for name, strength in choice.loras)
        return {
            "Model": choice.model,
            **({"LoRAs": loras} if loras else {}),
            "Plan": choice.plan,
            "Evaluates": settings["evaluates"],
            "Backend": settings["backend"],
            "Precision": settings["precision"],
            "Device": torch.cuda.get_device_name(device) if on_gpu else f"CPU, {torch.get_num_threads()} threads",
            "Graph": settings["graph"],
        }


def _short(checkpoint: str) -> str:
    """Return the name of a checkpoint without folders outside the project, which are nobody's business."""
    parts = [part.removeprefix(f"{ROOT}/") for part in checkpoint.split(":")]
    return ":".join(Path(part).name if part.startswith("/") else part for part in parts)
