"""Replaces the weights of a TensorRT engine that was built with `--refit`.

The engine names its weights by the checkpoint's keys: `<key>` for a weight as in the checkpoint, `<key>.T` for its
transpose. All other names belong to constants of the network, which stay unchanged.
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
    """Replace the engine's weights with `weights`, in place. Weights that the engine does not have are ignored.

    weights: by key, on any device, in any floating-point type; they are converted to the engine's type.
    The engine must not be running. Raise TensorRTError if the engine was built without refit or the refit fails; then
    it may have a mix of old and new weights, so discard it.
    """
    with on(engine.device):
        refitter = _refitter(engine)
        given: dict[str, Tensor] = {}  # kept alive until TensorRT has read their memory
        for name in refitter.get_all_weights():
            tensor = weights.get(name, weights.get(name.removesuffix(".T")))
            if tensor is not None:
                transposed = tensor if name in weights else tensor.T
                given[name] = _give(refitter, engine, name, transposed)
        if not given:
            raise TensorRTError(f"engine {engine.spec.name} has none of these weights; build it again with {BUILD}")
        if missing := refitter.get_missing_weights():
            raise TensorRTError(
                f"engine {engine.spec.name}: TensorRT has merged {len(missing)} constants that no checkpoint contains, "
                f"such as {missing[0]!r}, with weights to refit; build it from these weights, without --refit",
                engine.logger.heard(),
            )
        sentence = f"engine {engine.spec.name} cannot be refitted, and may have a mix of old and new weights"
        checked(refitter.refit_cuda_engine(), sentence, engine.logger)


def check_weights(engine: TensorRTEngine, names: Collection[str]) -> None:
    """Raise TensorRTError unless the engine can refit all these weights. names: as in the ONNX file."""
    with on(engine.device):
        if folded := sorted(set(names) - set(_refitter(engine).get_all_weights())):
            raise TensorRTError(
                f"engine {engine.spec.name}: TensorRT cannot refit {len(folded)} of {len(names)} weights, "
                f"such as {folded[0]!r}; build it without --refit",
                engine.logger.heard(),
            )


def _refitter(engine: TensorRTEngine) -> "trt.Refitter":
    if not engine.engine.refittable:
        raise TensorRTError(f"engine {engine.spec.name} was built without refit; build it again with {BUILD} --refit")
    return make(lambda: engine.trt.Refitter(engine.engine, engine.logger), "Refitter", engine.logger)


def _give(refitter: "trt.Refitter", engine: TensorRTEngine, name: str, tensor: Tensor) -> Tensor:
    """Convert the tensor to the engine's type in host memory, pass it to TensorRT and return it.

    TensorRT stores only its address. Raise TensorRTError if type or size are wrong, or if TensorRT rejects it.
    """
    prototype = refitter.get_weights_prototype(name)
    got, wanted = f"{tensor.dtype}, {tensor.numel()} values", f"{prototype.dtype.name}, {prototype.size} values"
    if not tensor.is_floating_point() or prototype.dtype.name not in FLOATS or tensor.numel() != prototype.size:
        raise TensorRTError(
            f"engine {engine.spec.name}: the weights of {name!r} are {got}, expected {wanted}: use a checkpoint of "
            "the architecture that the engine was built for"
        )
    tensor = tensor.detach().to("cpu", FLOATS[prototype.dtype.name]).contiguous()
    checked(
        refitter.set_named_weights(name, engine.trt.Weights(prototype.dtype, tensor.data_ptr(), tensor.numel())),
        f"engine {engine.spec.name}: TensorRT rejects the weights of {name!r}, {got}",
        engine.logger,
    )
    return tensor
