"""Defines, for each trick that can be left out, how to generate the picture without it.

Tricks change the model or the pipeline from outside, so they can be left out from outside: by a patch that is active
while the pipeline is created and run, or by a pipeline that does the work that the trick avoids.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from cldm.controlnet import ControlNet
from cldm.model import ControlLDM
from cldm.pipeline import MakeEngine, Pipeline, Shape
from cldm.request import Request
from cldm.tricks.guidance_batch import batch_guidance
from cldm.tricks.text_once import Text, pack
from ldm.tokenizer import Tokenizer
from ldm.unet import UNet
from plugins.attention import short_attend
from plugins.update.op import plain_update
from runtime.compiled_code import Tuning
from runtime.spec import EngineSpec, TensorSpec, allocate
from runtime.streams import Streams


class OneStream(Pipeline):
    """Runs every stage on one stream."""

    def __init__(self, model: ControlLDM, shape: Shape, make_engine: MakeEngine, streams: Streams) -> None:
        one = Streams(streams.device)
        one.side = one.main
        super().__init__(model, shape, make_engine, one)


class HintInEachEvaluation(Pipeline):
    def evaluate(self, shift: Tensor) -> None:
        self.streams.fork()
        self._enqueue("hint", "side")
        super().evaluate(shift)


class TextInEachEvaluation(Pipeline):
    """Computes keys and values of all cross-attentions in each evaluation; runs the text encoder once."""

    def __init__(self, model: ControlLDM, shape: Shape, make_engine: MakeEngine, streams: Streams) -> None:
        super().__init__(model, shape, make_engine, streams)
        (kv,) = self.engines["text"].spec.outputs
        context = TensorSpec("context", (kv.shape[0], kv.shape[1], model.architecture.text.width), kv.dtype)
        spec = EngineSpec("keys_values", (context,), (kv,))
        _add_engine(self, spec, _KeysValues(model), make_engine)

    def write(self, requests: Sequence[Request], tokenizer: Tokenizer) -> None:
        super().write(requests, tokenizer)
        tokens = self.inputs.written["tokens"].to(self.device)
        with torch.cuda.stream(self.streams.main):  # outside the graph, which already has the text encoder
            self.buffers["context"].copy_(self.model.text(tokens))

    def evaluate(self, shift: Tensor) -> None:
        self._enqueue("keys_values")
        super().evaluate(shift)


class TimeInEachEvaluation(Pipeline):
    """Computes time embeddings and the shifts of all ResBlocks in each evaluation."""

    def __init__(self, model: ControlLDM, shape: Shape, make_engine: MakeEngine, streams: Streams) -> None:
        super().__init__(model, shape, make_engine, streams)
        shift = next(spec for spec in self.engines["encoder"].spec.inputs if spec.name == "shift")
        t = TensorSpec("t", (1,), torch.int64)
        _add_engine(self, EngineSpec("time", (t,), (shift,)), _TimeShifts(model), make_engine)
        steps = self._evaluations(eta=0.0)
        self.timesteps = torch.tensor([[step.timestep] for step in steps], device=self.device)

    def prepare(self) -> None:
        super().prepare()
        self.remaining = iter(self.timesteps)

    def evaluate(self, shift: Tensor) -> None:
        self.buffers["t"].copy_(next(self.remaining))
        self._enqueue("time")
        self._side_by_side("encoder", "control")
        self._enqueue("decoder")


@dataclass(frozen=True)
class LeftOut:
    """How to leave out a trick: create, run and capture a pipeline of the class `pipeline` while `patch` is active."""

    pipeline: type[Pipeline] = Pipeline
    patch: Callable[[], AbstractContextManager[Any]] = nullcontext
    compiled: bool = False  # whether only compiled engines on a GPU have the trick


def _without(name: str, replacement: Any, compiled: bool = True) -> LeftOut:
    return LeftOut(patch=lambda: patch(name, replacement), compiled=compiled)


@contextmanager
def _without_products() -> Iterator[None]:
    with ExitStack() as patches:
        for module in ("layers", "products"):
            patches.enter_context(patch(f"plugins.{module}.runs_on", lambda device: False))
        yield


def _nothing(model: nn.Module) -> None:
    """Do nothing, in place of a function that changes the model."""


def _batch_guidance_from_the_start(model: ControlLDM) -> None:
    """Batch both prompts from the first layer on, not only from the first cross-attention on."""
    batch_guidance(model)
    model.control.__class__, model.unet.__class__ = _ControlOfBoth, _UNetOfBoth


NOTHING = "nothing"
LEFT_OUT = {
    NOTHING: LeftOut(),
    "two streams": LeftOut(OneStream),
    "guidance_batch": _without("cldm.fast.batch_guidance", _batch_guidance_from_the_start, compiled=False),
    "hint_once": LeftOut(HintInEachEvaluation),
    "text_once": LeftOut(TextInEachEvaluation),
    "time_table": LeftOut(TimeInEachEvaluation),
    "packed_qkv": _without("cldm.fast.pack_qkv", _nothing, compiled=False),
    "fused_attention": _without("runtime.inductor.fused_attention", nullcontext),
    "1x1 convolutions as products": _without("runtime.inductor.Tuning", partial(Tuning, conv_1x1_as_mm=False)),
    "group_norm": _without("plugins.layers.fuse_norms", _nothing),
    "attention kernels": _without("plugins.layers.fuse_attention", _nothing),
    "attention of many queries": _without("plugins.transformer.fused_attend", short_attend),
    "products for Hopper": LeftOut(patch=_without_products, compiled=True),  # nor folded norms, which need them
    "products with what follows": _without("plugins.layers.fuse_products", _nothing),
    "folded norms": _without("plugins.layers.fold_norms", _nothing),
    "folded norms of the text": _without("plugins.layers.fold_text", lambda model, attend: None),
    "zero convolutions": _without("plugins.layers.fuse_zero_convolutions", _nothing),
    "convolution kernel": _without("plugins.layers.fuse_convolutions", _nothing),
    "split_k_convolution": _without("plugins.layers.split_convolutions", _nothing),  # nor the kernel, a subclass
    "phase_upsampling": _without("plugins.layers.upsample_in_phases", _nothing),
    "early launch": _without("runtime.graph.launch_early", lambda graph, waiting: 0),
    "update kernel": _without("cldm.pipeline.update", plain_update),
}


class _ControlOfBoth(ControlNet):
    def encode(self, x: Tensor, *rest: Any) -> tuple[list[Tensor], Tensor]:
        return super().encode(torch.cat([x, x]), *rest)


class _UNetOfBoth(UNet):
    def encode(self, x: Tensor, *rest: Any) -> tuple[list[Tensor], Tensor]:
        return super().encode(torch.cat([x, x]), *rest)


class _KeysValues(nn.Module):
    def __init__(self, model: ControlLDM) -> None:
        super().__init__()
        self.layers = Text(model).cross_attentions

    def forward(self, context: Tensor) -> tuple[Tensor]:
        return (pack([layer.keys_values(context) for layer in self.layers]),)  # type: ignore[operator]


class _TimeShifts(nn.Module):
    def __init__(self, model: ControlLDM) -> None:
        super().__init__()
        self.control, self.unet = model.control, model.unet

    def forward(self, t: Tensor) -> tuple[Tensor]:
        return (torch.cat([*self.control.time_shifts(t), *self.unet.time_shifts(t)], dim=1),)


def _add_engine(pipeline: Pipeline, spec: EngineSpec, module: nn.Module, make_engine: MakeEngine) -> None:
    pipeline.buffers = allocate({spec.name: spec}, pipeline.device) | pipeline.buffers
    pipeline.engines[spec.name] = make_engine(spec, module)
    pipeline.engines[spec.name].bind(pipeline.buffers)
