"""Reads and writes plan files (JSON), and finds plans by the names that users give.

    models/plans/<architecture>_<evaluations>.json
    {"architecture": "small", "steps": 20, "evaluated": [19, ...], "taps": [[1, 0], ...],
     "distance": {"metric": "PD", "mean": 5.1}, "made": {...}}

`distance` is the mean distance from the float32 pictures with all steps evaluated, or null if it was not measured.
`made` records how the plan was found, for information only. `python -m build plans` writes these files.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from files import write_whole
from ldm.config import MODELS
from ldm.diffusion import ddim_timesteps
from plans.plan import MOST_STEPS, Plan, make_plan, usual_steps
from reading import path_text, read_object, shown

PLANS = MODELS / "plans"
LONE_STEP = 19  # plan "19" evaluates only step 19, the first of 20; a smaller number means that many evaluations


@dataclass(frozen=True)
class Distance:
    metric: str  # "PD", or "PD*" without the real Inception weights
    mean: float

    def __str__(self) -> str:
        return f"mean {self.metric} {self.mean:g}"


@dataclass(frozen=True)
class PlanFile:
    architecture: str  # name of the architecture that the plan was fitted on
    plan: Plan
    distance: Distance | None = None
    made: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return path_for(self.architecture, len(self.plan.evaluated))


def path_for(architecture: str, calls: int) -> Path:
    """Return the path of the architecture's plan file with `calls` evaluations, which may not exist."""
    return PLANS / f"{architecture}_{calls}.json"


def choose_plan(choice: str | Plan, ddim_steps: int, architecture: str) -> Plan:
    """Return the plan that `choice` names, or `choice` itself if it is a Plan.

    Names are "all", "ten", step indices such as "19,17,14,11,8,4", the path of a JSON file, the name of a file in
    models/plans such as "small_8", or a number such as "8": the architecture's file with that many evaluations.
    Raise ValueError for any other name, for a damaged file, and if the plan is for another number of steps.
    """
    plan = _given(choice, architecture)
    if plan is None:
        return make_plan(str(choice), ddim_steps)
    steps = len(ddim_timesteps(ddim_steps))
    if plan.steps != steps:
        name = choice if isinstance(choice, str) else shown([*plan.evaluated])
        raise ValueError(
            f"plan {name} is for {plan.steps} steps, but ddim_steps={ddim_steps} gives {steps}: use plan all"
        )
    return plan


def usual_steps_of(choice: str | Plan, architecture: str) -> int:
    """Return the ddim_steps that the plan is intended for. Raise ValueError if none gives its number of steps."""
    plan = _given(choice, architecture)
    return usual_steps(str(choice if plan is None else plan.steps - 1))


def known_plans(architecture: str) -> list[PlanFile]:
    """Return all plan files for the architecture, fewest evaluations first. Raise ValueError if one is damaged."""
    files = [read_plan(path) for path in PLANS.glob(f"{architecture}_*.json")]
    own = [file for file in files if file.architecture == architecture]  # the pattern matches longer names too
    return sorted(own, key=lambda file: len(file.plan.evaluated))


def find_plan(choice: str, architecture: str) -> Path | None:
    """Return the path of the plan file that `choice` names, or None if it does not name a file.

    Raise ValueError if `choice` is a number of evaluations that no plan file has.
    """
    if choice.endswith(".json"):
        return Path(path_text("plan", choice))
    number = int(choice) if choice.isdecimal() and len(choice) <= len(str(MOST_STEPS)) else None
    there = {path.stem: path for path in PLANS.glob("*.json")}
    found = there.get(choice) or (there.get(f"{architecture}_{number}") if number is not None else None)
    if found is None and number is not None and number < LONE_STEP:
        counts = [len(file.plan.evaluated) for file in known_plans(architecture)]
        raise ValueError(
            f"plan {choice}: {PLANS} has plans of {', '.join(map(str, counts)) or 'no'} evaluations for "
            f"{architecture}; create this one with python -m build plans --calls {choice}"
        )
    return found


def read_plan(path: Path) -> PlanFile:
    """Read a plan file. Raise ValueError naming the file and the problem."""
    again = "recreate it with python -m build plans --force"
    try:
        values = read_object(path)
    except OSError as error:
        raise ValueError(f"plan {path} cannot be read ({error.strerror}); {again}") from error
    except ValueError as error:
        raise ValueError(f"plan {path} {error}; {again}") from error
    try:
        made = _checked("made", values["made"], dict, "an object")
        architecture = _checked("architecture", values["architecture"], str, "a string")
        return PlanFile(architecture, plan_of(values), _distance(values["distance"]), made)
    except KeyError as error:
        raise ValueError(f"plan {path} has no field {error}; {again}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"plan {path}: {error}; {again}") from error


def plan_of(values: Mapping[str, Any]) -> Plan:
    """Return the plan with these JSON fields. Raise KeyError, TypeError or ValueError if one is missing or wrong."""
    if values.get("control"):
        raise ValueError("field 'control' lists evaluations without ControlNet, which is not supported anymore")
    rows = _checked("taps", values["taps"], list, "a list of lists of numbers")
    return Plan(values["steps"], _as_tuple(values["evaluated"]), tuple(map(_as_tuple, rows)))


def write_plan(file: PlanFile) -> Path:
    """Write the plan file to `file.path` atomically, and return that path."""
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


def plan_file(choice: str | Plan, architecture: str) -> PlanFile | None:
    """Return the content of the plan file that `choice` names, or None if it does not name a file.

    Raise ValueError like `find_plan` and `read_plan`.
    """
    path = None if isinstance(choice, Plan) else find_plan(choice, architecture)
    return None if path is None else read_plan(path)


def _given(choice: str | Plan, architecture: str) -> Plan | None:
    """Return `choice` itself if it is a Plan, the plan of the file that it names, or None for names without a file."""
    file = plan_file(choice, architecture)
    return file.plan if file else choice if isinstance(choice, Plan) else None


def _as_tuple(value: Any) -> Any:
    """Return a list of JSON as a tuple, and any other value as it is: Plan refuses it."""
    return tuple(value) if isinstance(value, list) else value


def _checked(name: str, value: Any, kind: type, expected: str) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{name}: got {shown(value)}, expected {expected}")
    return value


def _distance(value: Any) -> Distance | None:
    if value is None:
        return None
    metric, mean = _checked("distance", value, dict, "an object or null")["metric"], value["mean"]
    if metric not in ("PD", "PD*"):
        raise ValueError(f"distance: metric: got {shown(metric)}, expected 'PD' or 'PD*'")
    if not isinstance(mean, int | float) or isinstance(mean, bool) or not 0 <= mean <= sys.float_info.max:
        raise ValueError(f"distance: mean: got {shown(mean)}, expected a finite distance of 0 or more")
    return Distance(metric, float(mean))
