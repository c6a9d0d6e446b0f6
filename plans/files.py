"""Plans as small JSON files, and which plan a user's word means.

    models/plans/<architecture>_<evaluations>.json
    {"architecture": "small", "steps": 20, "evaluated": [19, ...], "taps": [[1, 0], ...],
     "distance": {"metric": "PD", "mean": 5.1}, "made": {...}}

`distance` is the mean to float32 pictures of all steps, null where nobody measured it; `made` says how the plan was
found, for a reader. `python -m build plans` writes such files.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from files import write_whole
from ldm.config import MODELS
from ldm.diffusion import ddim_timesteps
from plans.plan import Plan, make_plan, usual_steps

PLANS = MODELS / "plans"
LONE_STEP = 19  # this number is a list of one step, the first of 20; less is a number of evaluations


@dataclass(frozen=True)
class Distance:
    metric: str  # "PD", or "PD*" without the real Inception weights
    mean: float

    def __str__(self) -> str:
        return f"mean {self.metric} {self.mean:g}"


@dataclass(frozen=True)
class PlanFile:
    architecture: str  # whose network it was fitted on
    plan: Plan
    distance: Distance | None = None
    made: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return path_for(self.architecture, len(self.plan.evaluated))


def path_for(architecture: str, calls: int) -> Path:
    """Where a plan of so many evaluations lies."""
    return PLANS / f"{architecture}_{calls}.json"


def choose_plan(choice: str | Plan, ddim_steps: int, architecture: str) -> Plan:
    """The plan called `choice`: "all", "ten", step indices as in "19,17,14,11,8,4", a file, or the name of one in
    models/plans, such as "small_8"; where there is one for the architecture, 8 evaluations are called "8" too.

    Raises ValueError with one sentence for anything else, and for a plan of another number of steps.
    """
    plan = _given(choice, architecture)
    if plan is None:
        return make_plan(str(choice), ddim_steps)
    steps = len(ddim_timesteps(ddim_steps))
    if plan.steps != steps:
        name = choice if isinstance(choice, str) else list(plan.evaluated)
        raise ValueError(f"plan {name} is for {plan.steps} steps, and ddim_steps {ddim_steps} makes {steps}: use all")
    return plan


def usual_steps_of(choice: str | Plan, architecture: str) -> int:
    """The ddim_steps that the plan is made for. Raises ValueError if there are none."""
    plan = _given(choice, architecture)
    return usual_steps(str(choice if plan is None else plan.steps - 1))


def known_plans(architecture: str) -> list[PlanFile]:
    """All in models/plans, the fewest evaluations first. Raises ValueError for a damaged one."""
    files = [read_plan(path) for path in PLANS.glob(f"{architecture}_*.json")]
    own = [file for file in files if file.architecture == architecture]  # another's name may begin with this one
    return sorted(own, key=lambda file: len(file.plan.evaluated))


def find_plan(choice: str, architecture: str) -> Path | None:
    """The file that `choice` means, if it means one. Raises ValueError for a number of evaluations that has none."""
    if choice.endswith(".json"):
        return Path(choice)
    names = [choice, *([f"{architecture}_{choice}"] if choice.isdecimal() else [])]
    found = next((path for name in names if (path := PLANS / f"{name}.json").is_file()), None)
    if found is None and choice.isdecimal() and int(choice) < LONE_STEP:
        there = [len(file.plan.evaluated) for file in known_plans(architecture)]
        raise ValueError(
            f"plan {choice}: of {architecture} there are plans of {', '.join(map(str, there)) or 'no'} evaluations in "
            f"{PLANS}; find one with python -m build plans --calls {choice}"
        )
    return found


def read_plan(path: Path) -> PlanFile:
    """Raises ValueError with one sentence that names the file and what is wrong with it."""
    again = "write it again with python -m build plans"
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"plan {path} cannot be read ({error.strerror}); {again}") from error
    except ValueError as error:
        raise ValueError(f"plan {path} is no JSON ({error}); {again}") from error
    try:
        plan = plan_of(values)
        distance = values["distance"]
        measured = None if distance is None else Distance(str(distance["metric"]), _distance(distance["mean"]))
        return PlanFile(str(values["architecture"]), plan, measured, dict(values["made"]))
    except KeyError as error:
        raise ValueError(f"plan {path} lacks {error}; {again}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"plan {path}: {error}; {again}") from error


def plan_of(values: Mapping[str, Any]) -> Plan:
    """From the fields of a plan as JSON. Raises KeyError, TypeError or ValueError."""
    if values.get("control"):
        raise ValueError("its field control leaves ControlNet out of some evaluations, which plans no longer can")
    return Plan(
        _whole(values["steps"]),
        tuple(_whole(index) for index in values["evaluated"]),
        tuple(tuple(float(tap) for tap in row) for row in values["taps"]),
    )


def write_plan(file: PlanFile) -> Path:
    """Write it where `choose_plan` finds it, whole or not at all."""
    plan = file.plan
    values = {
        "architecture": file.architecture,
        "steps": plan.steps,
        "evaluated": plan.evaluated,
        "taps": plan.taps,
        "distance": None if file.distance is None else asdict(file.distance),
        "made": file.made,
    }
    write_whole(file.path, (json.dumps(values, indent=1) + "\n").encode())
    return file.path


def _given(choice: str | Plan, architecture: str) -> Plan | None:
    """None for what `make_plan` knows."""
    if isinstance(choice, Plan):
        return choice
    path = find_plan(choice, architecture)
    return None if path is None else read_plan(path).plan


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"got {value!r}, expected a whole number")
    return value


def _distance(value: Any) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise TypeError(f"got {value!r}, expected a distance of 0 or more")
    return float(value)
