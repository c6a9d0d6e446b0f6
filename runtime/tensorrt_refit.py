"""Other weights for a TensorRT engine that leaves them open: one that was built with `--refit`.

The engine knows its weights by the checkpoint's keys: `<key>` as it is there, `<key>.T` transposed. What else it lists
are constants of the network, and they stay.
Not executed by TensorRT yet; tests/standin covers the calls. TensorRT for RTX needs a GPU to build such an engine.
"""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from runtime.tensorrt import BUILD, DTYPES, TensorRTEngine
from runtime.tensorrt_calls import TensorRTError, checked, make, on

if TYPE_CHECKING:
    import tensorrt as trt

FLOATS = {name: dtype for dtype, name in DTYPES.items() if dtype.is_floating_point}


def refit(engine: TensorRTEngine, weights: Mapping[str, Tensor]) -> None:
    """Let the engine compute with these weights from now on. Those that it does not know are passed over.

    weights: by key, on any device, in any floating type; the engine's type is what they are converted to.
    The engine must not be running. Raises TensorRTError; then it may hold some weights of each kind: throw it away.
    """
    with on(engine.device):
        refitter = _refitter(engine)
        given: dict[str, Tensor] = {}  # TensorRT reads their memory until it has refitted
        for name in refitter.get_all_weights():
            tensor = weights.get(name, weights.get(name.removesuffix(".T")))
            if tensor is not None:
                transposed = tensor if name in weights else tensor.T
                given[name] = _give(refitter, engine, name, transposed)
        if not given:
            raise TensorRTError(f"engine {engine.spec.name} knows none of the weights; build it again with {BUILD}")
        if missing := refitter.get_missing_weights():
            raise TensorRTError(
                f"engine {engine.spec.name}: TensorRT has merged {len(missing)} constants that no checkpoint holds, "
                f"such as {missing[0]!r}, with weights that change; build it from these weights, without --refit",
                engine.logger.heard(),
            )
        sentence = f"engine {engine.spec.name} cannot be refitted, and may hold some weights of each kind"
        checked(refitter.refit_cuda_engine(), sentence, engine.logger)


def check_weights(engine: TensorRTEngine, names: Collection[str]) -> None:
    """Raises TensorRTError if the engine does not leave all these weights open, named as in the ONNX file."""
    with on(engine.device):
        if folded := sorted(set(names) - set(_refitter(engine).get_all_weights())):
            raise TensorRTError(
                f"engine {engine.spec.name}: TensorRT cannot change {len(folded)} of {len(names)} weights any more, "
                f"such as {folded[0]!r}; build it without --refit",
                engine.logger.heard(),
            )


def _refitter(engine: TensorRTEngine) -> "trt.Refitter":
    if not engine.engine.refittable:
        raise TensorRTError(f"engine {engine.spec.name} was built without refit; build it again with {BUILD} --refit")
    return make(lambda: engine.trt.Refitter(engine.engine, engine.logger), "Refitter", engine.logger)


def _give(refitter: "trt.Refitter", engine: TensorRTEngine, name: str, tensor: Tensor) -> Tensor:
    """What TensorRT was given: the tensor in the engine's type, in memory of the host."""
    prototype = refitter.get_weights_prototype(name)
    got, wanted = f"{tensor.dtype}, {tensor.numel()} values", f"{prototype.dtype.name}, {prototype.size} values"
    if not tensor.is_floating_point() or prototype.dtype.name not in FLOATS or tensor.numel() != prototype.size:
        raise TensorRTError(
            f"engine {engine.spec.name}: the weights of {name!r} are {got}, expected {wanted}: give a checkpoint of "
            "the architecture that the engine was built for"
        )
    tensor = tensor.detach().to("cpu", FLOATS[prototype.dtype.name]).contiguous()
    checked(
        refitter.set_named_weights(name, engine.trt.Weights(prototype.dtype, tensor.data_ptr(), tensor.numel())),
        f"engine {engine.spec.name}: TensorRT refuses the weights of {name!r}, {got}",
        engine.logger,
    )
    return tensor
