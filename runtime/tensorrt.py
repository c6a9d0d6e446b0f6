"""An engine that TensorRT deserializes and runs.

The first bytes of a serialized engine (a "plan" in TensorRT's documentation) identify the library. The engine runs only
with the library version that built it, 10.16 or later, and on the GPUs that it was built for. Its tensors have the
layouts that `layout` returns; on a GPU, buffers from `runtime.spec.allocate` have these layouts.
Not executed by TensorRT yet: tests run these calls on a stand-in (tests/standin), and TensorRT for RTX itself builds
our engines (tests/test_tensorrt_build.py).
"""

from collections.abc import Iterable, Mapping
from copy import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from runtime.cuda import CaptureError
from runtime.engine import Engine, Stream
from runtime.scratch import ALIGNMENT
from runtime.spec import EngineSpec, TensorSpec
from runtime.tensorrt_calls import TensorRTError, checked, logger_of, make, on
from runtime.tensorrt_kernels import KernelCache
from runtime.tensorrt_library import Library, check_device, library_that_reads

if TYPE_CHECKING:
    import tensorrt as trt

BUILD = "python -m build --backend tensorrt"
DTYPES = {
    torch.float32: "FLOAT",
    torch.float16: "HALF",
    torch.bfloat16: "BF16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.uint8: "UINT8",
    torch.bool: "BOOL",
}


class TensorRTEngine(Engine):
    """A deserialized engine with one execution context, whose scratch memory the caller provides.

    Contexts that never run at the same time may share scratch memory (`allocate_scratch`). Before capture into a CUDA
    graph the engine must run once; buffers, scratch memory and engine must live as long as the graph.
    kernels: the cache for a library that compiles kernels at the first run; other libraries ignore it.
    Raises TensorRTError if TensorRT cannot run the engine here, or if its tensors differ from those of `spec`.
    """

    def __init__(
        self, spec: EngineSpec, serialized: bytes, device: torch.device, kernels: KernelCache | None = None
    ) -> None:
        check_device(device)
        self.library = library_that_reads(spec.name, serialized)
        check_device(device, self.library)
        check_version(spec.name, serialized, self.library)
        self.spec, self.device, self.kernels = spec, device, kernels
        self.trt: Any = self.library.load()
        self.logger = logger_of(self.trt)
        self.logger.heard()  # discard messages about other engines
        with on(device):
            self.runtime: trt.Runtime = make(lambda: self.trt.Runtime(self.logger), "Runtime", self.logger)
            self.engine: trt.ICudaEngine = checked(
                self.runtime.deserialize_cuda_engine(serialized),
                f"engine {spec.name}: the serialized engine cannot be read; build it again with {BUILD}",
                self.logger,
            )
            check_tensors(spec, _tensors(self.engine))
        self.scratch_bytes: int = self.engine.device_memory_size_v2
        self._begin()

    def twin(self) -> "TensorRTEngine":
        """Return another TensorRTEngine with a new context for the same engine; both share the weights on the device.

        Raise TensorRTError if the context cannot be created.
        """
        other = copy(self)
        other._begin()
        return other

    def _begin(self) -> None:
        """Create a context and forget buffers and scratch memory of an earlier one."""
        how = self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        with on(self.device):
            if self.library.runtime_cache and self.kernels:
                how = self.kernels.configuration(self.engine, how, self.logger)
            self.context: trt.IExecutionContext = checked(
                self.engine.create_execution_context(how),
                f"engine {self.spec.name}: no execution context can be created; free GPU memory",
                self.logger,
            )
        self.scratch: Tensor | None = None
        self.buffers: list[Tensor] = []

    def use_scratch(self, memory: Tensor) -> None:
        """See Engine."""
        index = self.device.index if self.device.index is not None else memory.device.index
        wrong = {
            f"dtype {memory.dtype}, expected torch.uint8": memory.dtype != torch.uint8,
            f"device {memory.device}, expected {self.device}": memory.device != torch.device(self.device.type, index),
            "gaps, expected contiguous memory": not memory.is_contiguous(),
            f"{memory.numel()} bytes, expected at least {self.scratch_bytes}": memory.numel() < self.scratch_bytes,
            f"an address that is not a multiple of {ALIGNMENT}": memory.data_ptr() % ALIGNMENT != 0,
        }
        if found := [what for what, is_wrong in wrong.items() if is_wrong]:
            raise ValueError(f"engine {self.spec.name}: scratch memory has {', '.join(found)}; use allocate_scratch")
        self.context.set_device_memory(memory.data_ptr(), memory.numel())
        self.scratch = memory  # keeps it alive: TensorRT stores only the address

    def bind(self, buffers: Mapping[str, Tensor]) -> None:
        """See Engine. Raise ValueError also for a wrong layout, and TensorRTError if TensorRT rejects a buffer."""
        inputs, outputs = self.spec.pick(buffers)
        bound, self.buffers = [*inputs, *outputs], []
        for spec, buffer in zip((*self.spec.inputs, *self.spec.outputs), bound, strict=True):
            wanted = torch.contiguous_format if layout(spec) == "LINEAR" else torch.channels_last
            if not buffer.is_contiguous(memory_format=wanted):
                raise ValueError(
                    f"engine {self.spec.name}: buffer {spec.name!r} has strides {buffer.stride()}, expected {wanted}; "
                    "allocate buffers with runtime.spec.allocate"
                )
            checked(
                self.context.set_tensor_address(spec.name, buffer.data_ptr()),
                f"engine {self.spec.name}: TensorRT rejects the address of {spec.name!r}",
                self.logger,
            )
        self.buffers = bound

    def enqueue(self, stream: Stream) -> None:
        """See Engine. Raise TensorRTError if the run cannot be queued, even during capture into a CUDA graph."""
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

    def check_capturable(self, stream: torch.cuda.Stream) -> None:
        """See Engine. Does nothing if the library does not offer this check."""
        says = getattr(self.context, "is_stream_capturable", None)
        if says and not says(stream.cuda_stream):
            raise CaptureError(f"engine {self.spec.name} cannot be captured ({self.logger.heard()})")


def check_version(name: str, serialized: bytes, library: Library) -> None:
    """Raise TensorRTError if another version of the library built the engine. name: of the engine, for the message."""
    built = ".".join(str(number) for number in serialized[24:28])
    if built != library.version():
        raise TensorRTError(
            f"engine {name}: the serialized engine was built by {library.title} {built}, but {library.version()} is "
            f"installed; build it again with {BUILD}, or install {library.package}=={built}"
        )


def check_tensors(spec: EngineSpec, found: Mapping[str, str]) -> None:
    """Raise TensorRTError if the engine's tensors differ from the spec. found: `describe` of each, by name."""
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
    """Return the name of TensorRT's TensorFormat for the tensor.

    HWC8 pads channels to a multiple of eight, so it is used only if they are one already.
    """
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
