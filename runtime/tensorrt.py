"""The engine that TensorRT builds: a plan, run by `tensorrt` or by `tensorrt_lean`, version 10.16 or later.

TensorRT reports failures as return values and their reasons to a logger; here every one is a TensorRTError with both.
A plan fits one version of TensorRT and one kind of GPU. It reads and writes each tensor in the layout that `layout`
names, in which `runtime.spec.allocate` makes buffers on a GPU.
Has not run on TensorRT itself yet: what stands in for that proof are `tests/standin` and the real bindings' names.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from runtime.engine import Stream
from runtime.spec import EngineSpec, TensorSpec
from runtime.tensorrt_library import TensorRTError, checked, make, make_logger, on

if TYPE_CHECKING:
    import tensorrt as trt
else:
    from runtime.tensorrt_library import trt

BUILD = "python -m build --backend tensorrt"
MAGIC = b"ftrt\0\0\0\0"
ALIGNMENT = 256  # bytes, of scratch memory and of every tensor
DTYPES = {
    torch.float32: "FLOAT",
    torch.float16: "HALF",
    torch.bfloat16: "BF16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.uint8: "UINT8",
    torch.bool: "BOOL",
}


class TensorRTEngine:
    """A deserialised plan with one context, whose scratch memory the caller gives.

    Contexts that never run at the same time may share it (`allocate_scratch`). Recording into a CUDA graph needs one
    run before, and buffers, scratch and engine alive as long as the graph.
    Raises TensorRTError if TensorRT cannot run the plan here, or if the plan's tensors are not those of `spec`.
    """

    def __init__(self, spec: EngineSpec, plan: bytes, device: torch.device) -> None:
        check_device(device)
        check_version(spec.name, plan)
        self.spec, self.device = spec, device
        self.logger = make_logger()
        with on(device):
            self.runtime = make(lambda: trt.Runtime(self.logger), "Runtime", self.logger)
            self.engine = checked(
                self.runtime.deserialize_cuda_engine(plan),
                f"engine {spec.name}: the plan cannot be deserialised; build it again with {BUILD}",
                self.logger,
            )
            check_tensors(spec, _tensors(self.engine))
        self.scratch_bytes: int = self.engine.device_memory_size_v2
        self._begin()

    def twin(self) -> "TensorRTEngine":
        """One more engine of the same plan, whose weights the device holds once, with a context of its own.

        Raises TensorRTError if there is no memory for it.
        """
        other = copy(self)
        other._begin()
        return other

    def _begin(self) -> None:
        """With a new context, which has neither buffers nor scratch memory."""
        with on(self.device):
            self.context = checked(
                self.engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED),
                f"engine {self.spec.name}: no execution context can be created; free GPU memory",
                self.logger,
            )
        self.scratch: Tensor | None = None
        self.buffers: list[Tensor] = []

    def use_scratch(self, tensor: Tensor) -> None:
        """Work in this memory: uint8, contiguous, on the engine's device, `scratch_bytes` or more, 256-byte aligned.

        Raises ValueError if it is anything else.
        """
        index = self.device.index if self.device.index is not None else tensor.device.index
        wrong = {
            f"dtype {tensor.dtype}, expected torch.uint8": tensor.dtype != torch.uint8,
            f"device {tensor.device}, expected {self.device}": tensor.device != torch.device(self.device.type, index),
            "gaps, expected contiguous memory": not tensor.is_contiguous(),
            f"{tensor.numel()} bytes, expected at least {self.scratch_bytes}": tensor.numel() < self.scratch_bytes,
            f"an address that is no multiple of {ALIGNMENT}": tensor.data_ptr() % ALIGNMENT != 0,
        }
        if found := [what for what, is_wrong in wrong.items() if is_wrong]:
            raise ValueError(f"engine {self.spec.name}: scratch memory has {', '.join(found)}; use allocate_scratch")
        self.context.set_device_memory(tensor.data_ptr(), tensor.numel())
        self.scratch = tensor  # TensorRT keeps the address only

    def bind(self, buffers: Mapping[str, Tensor]) -> None:
        """See Engine. Raises ValueError for a buffer in another layout, TensorRTError if TensorRT refuses one."""
        inputs, outputs = self.spec.pick(buffers)
        bound, self.buffers = [*inputs, *outputs], []
        for spec, buffer in zip((*self.spec.inputs, *self.spec.outputs), bound, strict=True):
            wanted = torch.contiguous_format if layout(spec) == "LINEAR" else torch.channels_last
            if not buffer.is_contiguous(memory_format=wanted):
                raise ValueError(
                    f"engine {self.spec.name}: buffer {spec.name!r} has strides {buffer.stride()}, expected {wanted}; "
                    "make buffers with runtime.spec.allocate"
                )
            checked(
                self.context.set_tensor_address(spec.name, buffer.data_ptr()),
                f"engine {self.spec.name}: TensorRT refuses the address of {spec.name!r}",
                self.logger,
            )
        self.buffers = bound

    def enqueue(self, stream: Stream) -> None:
        """See Engine. Raises TensorRTError too where a CUDA graph is being recorded and cannot hold this engine."""
        if not self.buffers:
            raise TensorRTError(f"engine {self.spec.name} has no buffers: call bind before enqueue")
        if self.scratch is None:
            raise TensorRTError(f"engine {self.spec.name} has no scratch memory: call allocate_scratch before enqueue")
        stream = stream or torch.cuda.current_stream(self.device)
        checked(
            self.context.execute_async_v3(stream.cuda_stream),
            f"engine {self.spec.name} cannot be enqueued",
            self.logger,
        )


def allocate_scratch(groups: Iterable[Sequence[TensorRTEngine]], device: torch.device) -> None:
    """Give each group of engines, of which never two run at the same time, one scratch buffer for all."""
    for group in groups:
        size = max([ALIGNMENT, *(engine.scratch_bytes for engine in group)])
        memory = torch.empty(size + ALIGNMENT, dtype=torch.uint8, device=device)
        start = -memory.data_ptr() % ALIGNMENT
        for engine in group:
            engine.use_scratch(memory[start : start + size])


def check_device(device: torch.device) -> None:
    """Raises TensorRTError if there is no such CUDA device.

    Must come before a Runtime is made: without a driver, tensorrt_lean ends the process when it reads a plan.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type != "cuda" or (device.index or 0) >= count:
        raise TensorRTError(
            f"TensorRT engines need a CUDA device: got {device}, and PyTorch sees {count} of them; use backend eager"
        )


def plan_version(name: str, plan: bytes) -> str:
    """The version of TensorRT that built the plan, "major.minor.patch.build", from its first 28 bytes.

    Raises TensorRTError if that is no plan; `name` is the engine's.
    """
    if len(plan) < 28 or not plan.startswith(MAGIC):
        raise TensorRTError(
            f"engine {name}: {len(plan)} bytes that begin with {plan[:8]!r} are no TensorRT plan, expected at least 28 "
            f"that begin with {MAGIC!r}; build it with {BUILD}"
        )
    return ".".join(str(number) for number in plan[24:28])


def check_version(name: str, plan: bytes) -> None:
    """Raises TensorRTError if another version of TensorRT built the plan than would run it."""
    built = plan_version(name, plan)
    if built != trt.__version__:
        raise TensorRTError(
            f"engine {name}: the plan is of TensorRT {built}, and {trt.__version__} is installed; "
            f"build it again with {BUILD}, or install {built}"
        )


def check_tensors(spec: EngineSpec, found: Mapping[str, str]) -> None:
    """Raises TensorRTError if `found`, descriptions by name as of `describe`, are not the tensors of the spec."""
    wanted = {one.name: describe("INPUT", DTYPES[one.dtype], one.shape, layout(one)) for one in spec.inputs}
    wanted |= {one.name: describe("OUTPUT", DTYPES[one.dtype], one.shape, layout(one)) for one in spec.outputs}
    different = [
        f"{name!r} is {found.get(name, 'missing')}, expected {wanted.get(name, 'no such tensor')}"
        for name in sorted(wanted.keys() | found.keys())
        if wanted.get(name) != found.get(name)
    ]
    if different:
        raise TensorRTError(f"engine {spec.name}: {', '.join(different)}; build it again with {BUILD}")


def describe(mode: str, dtype: str, shape: Iterable[int], layout: str) -> str:
    return f"{mode} {dtype} {[*shape]} {layout}"


def layout(spec: TensorSpec) -> str:
    """How the tensor lies in memory: the name of a TensorFormat. HWC8 pads channels to eight, so it must need none."""
    if not spec.channels_last:
        return "LINEAR"
    return "HWC8" if spec.dtype in (torch.float16, torch.bfloat16) and spec.shape[1] % 8 == 0 else "HWC"


def _tensors(engine: "trt.ICudaEngine") -> dict[str, str]:
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    return {
        name: describe(
            engine.get_tensor_mode(name).name,
            engine.get_tensor_dtype(name).name,
            engine.get_tensor_shape(name),
            engine.get_tensor_format(name).name,
        )
        for name in names
    }
