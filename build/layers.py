"""What an engine turned out to be: its compiled layers, from the builder's log or from EngineInspector's JSON.

With detailed profiling verbosity the log lists them, one line a layer, and needs no GPU; the inspector reads an engine
on the GPU that runs it. Both give the same fields under the same names.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from build.table import table as aligned

# How TensorRT's compiler names its fused attention kernels, such as _gemm_mha_v2_myl0_4. Names of layers may also
# repeat those of ONNX nodes, so there the whole stem is asked for.
FUSED, FUSED_NAME = re.compile("mha|attention", re.I), re.compile("_ge(mm|mv)_mha")
UNFUSED = re.compile("softmax|Maxr?SubExpSum", re.I)
NORM, SILU = re.compile("[GI]nor"), re.compile("Silu")

LAYERS = "Layers:\n"  # how the builder's message begins that lists them
FIELD = re.compile(r"(Name|LayerType|TacticName|Metadata): (.*?)(?=, [A-Z]\w+: |$)")
OUTPUTS = re.compile(r"Outputs: \[ {(.*)}\]")  # tensors have lists too, of dimensions
OUTPUT = re.compile(r"Datatype: (\w+), Format: (?:\((\w+)\) )?")
SCRATCH = re.compile(r"Max Scratch Memory: (\d+) bytes")


@dataclass(frozen=True)
class Layer:
    name: str
    kind: str
    formats: tuple[str, ...]  # type and layout of each output, in TensorRT's words
    attention: Literal["fused", "unfused", "none"]  # unfused: it computes the softmax of one
    norm: Literal["fused", "unfused", "none"]  # fused: SiLU is in the same kernel as a GroupNorm


@dataclass(frozen=True)
class Report:
    """One engine."""

    engine: str
    seconds: float  # that the build took
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
        """Number of layer outputs by format."""
        return Counter(one for layer in self.layers for one in layer.formats)


@dataclass
class BuildLog:
    """What of the builder's messages describes the engine."""

    layers: tuple[Layer, ...] = ()  # none where the log does not list them
    scratch_bytes: int = 0

    def __call__(self, message: str) -> None:
        """Listen to one message. Never raises: the caller is C++."""
        if message.startswith(LAYERS):
            lines = message.removeprefix(LAYERS).split("\n\n")[0].splitlines()
            self.layers = tuple(make_layer(_fields(line)) for line in lines if line.startswith("Name: "))
        elif found := SCRATCH.search(message):
            self.scratch_bytes = int(found[1])


def layers_of_json(text: str) -> tuple[Layer, ...]:
    """EngineInspector's layers of an engine built with detailed verbosity. Raises ValueError if the text is none."""
    try:
        return tuple(make_layer(one) for one in json.loads(text)["Layers"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no detailed layers ({type(error).__name__})") from error


def table(reports: Sequence[Report]) -> str:
    """One line per engine, to be printed."""
    header = "engine,build s,engine MiB,scratch MiB,layers,attentions fused,unfused,norms with SiLU,output formats"
    rows = []
    for one in reports:
        sizes = [f"{number / 2**20:.1f}" for number in (one.engine_bytes, one.scratch_bytes)]
        counts = (len(one.layers), one.attentions("fused"), one.attentions("unfused"), one.silu_norms)
        formats = ", ".join(f"{name} {count}" for name, count in one.formats.most_common())
        rows.append([one.engine, f"{one.seconds:.1f}", *sizes, *map(str, counts), formats])
    return aligned(header.split(","), rows, left=(0, 8))


def make_layer(information: Mapping[str, Any]) -> Layer:
    """From the fields that log and inspector give; the key of an output's format depends on TensorRT's version."""
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
    """One line of the builder's list, as the inspector's JSON has it."""
    outputs = OUTPUTS.search(line)
    found = OUTPUT.findall(outputs[1]) if outputs else []
    texts = dict(reversed(FIELD.findall(line)))  # the layer's own name comes before those of its tensors
    return {**texts, "Outputs": [{"Datatype": kind, "Format": layout} for kind, layout in found]}
