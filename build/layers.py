"""Reads the compiled layers of an engine from the builder's log or from EngineInspector's JSON.

With detailed profiling verbosity, the log lists the layers, one per line, without a GPU. The inspector needs a GPU that
can run the engine. Both use the same field names.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from build.table import table as aligned
from reading import parse_object

# TensorRT's compiler gives fused attention kernels names like _gemm_mha_v2_myl0_4. A layer's name may also contain the
# names of ONNX nodes, such as attention, so FUSED_NAME matches the whole stem.
FUSED, FUSED_NAME = re.compile("mha|attention", re.I), re.compile("_ge(mm|mv)_mha")
UNFUSED = re.compile("softmax|Maxr?SubExpSum", re.I)
NORM, SILU = re.compile("[GI]nor"), re.compile("Silu")

LAYERS = "Layers:\n"  # first line of the builder's message that lists the layers
FIELD = re.compile(r"(Name|LayerType|TacticName|Metadata): (.*?)(?=, [A-Z]\w+: |$)")
OUTPUTS = re.compile(r"Outputs: \[ {(.*)}\]")  # tensors contain lists too: their dimensions
OUTPUT = re.compile(r"Datatype: (\w+), Format: (?:\((\w+)\) )?")
SCRATCH = re.compile(r"Max Scratch Memory: (\d+) bytes")


@dataclass(frozen=True)
class Layer:
    name: str
    kind: str
    formats: tuple[str, ...]  # type and layout of each output, in TensorRT's words
    attention: Literal["fused", "unfused", "none"]  # unfused: this layer computes an attention's softmax
    norm: Literal["fused", "unfused", "none"]  # fused: one kernel computes GroupNorm and SiLU


@dataclass(frozen=True)
class Report:
    """Layers, sizes and build time of one engine."""

    engine: str
    seconds: float  # build time
    engine_bytes: int
    scratch_bytes: int
    layers: tuple[Layer, ...]

    def attentions(self, state: Literal["fused", "unfused"]) -> int:
        return sum(layer.attention == state for layer in self.layers)

    @property
    def silu_norms(self) -> int:
        return sum(layer.norm == "fused" for layer in self.layers)

    @property
    def formats(self) -> Counter[str]:
        """The number of layer outputs in each format."""
        return Counter(one for layer in self.layers for one in layer.formats)


@dataclass
class BuildLog:
    """Layers and scratch size, collected from the builder's messages."""

    layers: tuple[Layer, ...] = ()  # empty if the log does not list them
    scratch_bytes: int = 0

    def __call__(self, message: str) -> None:
        """Process one message. Never raises, because the caller is C++."""
        if message.startswith(LAYERS):
            lines = message.removeprefix(LAYERS).split("\n\n")[0].splitlines()
            self.layers = tuple(make_layer(_fields(line)) for line in lines if line.startswith("Name: "))
        elif found := SCRATCH.search(message):
            self.scratch_bytes = int(found[1])


def layers_of_json(text: str) -> tuple[Layer, ...]:
    """Return the layers in EngineInspector's JSON. Raise ValueError if it is not JSON or lists no detailed layers."""
    try:
        return tuple(make_layer(one) for one in parse_object(text)["Layers"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no detailed layers ({type(error).__name__})") from error


def table(reports: Sequence[Report]) -> str:
    """Return a printable table with one line per engine."""
    header = "engine,build s,engine MiB,scratch MiB,layers,attentions fused,unfused,norms with SiLU,output formats"
    rows = []
    for one in reports:
        sizes = [f"{number / 2**20:.1f}" for number in (one.engine_bytes, one.scratch_bytes)]
        counts = (len(one.layers), one.attentions("fused"), one.attentions("unfused"), one.silu_norms)
        formats = ", ".join(f"{name} {count}" for name, count in one.formats.most_common())
        rows.append([one.engine, f"{one.seconds:.1f}", *sizes, *map(str, counts), formats])
    return aligned(header.split(","), rows, left=(0, 8))


def make_layer(information: Mapping[str, Any]) -> Layer:
    """Return the Layer of log or inspector fields. The key of an output's format depends on TensorRT's version."""
    name, kind, tactic, origin = (
        str(information.get(key, "")) for key in ("Name", "LayerType", "TacticName", "Metadata")
    )
    attention: Literal["fused", "unfused", "none"] = "none"
    if FUSED.search(f"{kind} {tactic}") or FUSED_NAME.search(name):
        attention = "fused"
    elif UNFUSED.search(f"{name} {kind} {origin}"):
        attention = "unfused"
    norm: Literal["fused", "unfused", "none"] = "none"
    if NORM.search(name):
        norm = "fused" if SILU.search(name) else "unfused"
    formats = []
    for output in information.get("Outputs", []):
        words = [output.get(key) for key in ("Format/Datatype", "Datatype", "Format")]
        formats.append(" ".join(str(word) for word in words if word))
    return Layer(name, kind, tuple(formats), attention, norm)


def _fields(line: str) -> dict[str, Any]:
    """Convert one line of the builder's list to the form of the inspector's JSON."""
    outputs = OUTPUTS.search(line)
    found = OUTPUT.findall(outputs[1]) if outputs else []
    texts = dict(reversed(FIELD.findall(line)))  # reversed, so that the first Name, the layer's own, wins
    return {**texts, "Outputs": [{"Datatype": kind, "Format": layout} for kind, layout in found]}
