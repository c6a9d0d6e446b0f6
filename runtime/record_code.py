"""Records code that Inductor generated for a GPU, so that `generated_code.py` runs it without Inductor.

The code is run once, with kernels that note how they are launched. What differs from the known form is refused.
"""

import ast
import builtins
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from runtime.generated_code import EXTERN, TYPES, Kernel, Launch, compiled, names, pack


class UnknownForm(ValueError):
    """The code differs from what can be recorded."""


@contextmanager
def new_modules() -> Iterator[list[ModuleType]]:
    """Yield a list that has, after the block, the modules that Inductor has generated and loaded in it."""
    from torch._inductor.codecache import PyCodeCache

    before, found = {id(module) for module in PyCodeCache.modules}, list[ModuleType]()
    yield found
    found += [module for module in PyCodeCache.modules if id(module) not in before and hasattr(module, "call")]


def record(modules: Sequence[ModuleType], arguments: Sequence[Tensor]) -> bytes:
    """Return what `generated_code.load` loads. arguments: those of the code, with which it runs once.

    modules: as `new_modules` finds them. Raises UnknownForm if the code cannot be recorded.
    """
    if len(modules) != 1:
        raise UnknownForm(f"got {len(modules)} generated modules, expected one")
    (module,) = modules
    with open(str(module.__file__)) as file:
        function = find_call(file.read())
    check_extern(function)
    recorders = {name: Recorder(getattr(module, name, None)) for name in unknown_names(function)}
    source = ast.unparse(function)
    compiled(source, recorders)([*arguments])
    torch.cuda.synchronize()
    return pack(
        source,
        {name: one.kernel() for name, one in recorders.items()},
        {one.kernel().code: one.cubin() for one in recorders.values()},
    )


def find_call(source: str) -> ast.FunctionDef:
    """Return the function `call` of the source of a generated module, without the parameter self of a method."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name == "call":
            node.args.args = [one for one in node.args.args if one.arg != "self"]
            return node
    raise UnknownForm("the generated module has no function `call`")


def unknown_names(function: ast.FunctionDef) -> list[str]:
    """Return the names that a function uses and that neither it, Python nor `generated_code.names` defines."""
    used = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
    known = {one.arg for one in function.args.args} | {one.id for one in used if isinstance(one.ctx, ast.Store)}
    return sorted({one.id for one in used} - known - {*names(), *dir(builtins)})


def check_extern(function: ast.FunctionDef) -> None:
    """Raise UnknownForm if the function calls one of Inductor's extern_kernels that is not PyTorch's function."""
    from torch._inductor.select_algorithm import extern_kernels

    attributes = [node for node in ast.walk(function) if isinstance(node, ast.Attribute)]
    for name in {one.attr for one in attributes if ast.unparse(one.value) == "extern_kernels"}:
        if name not in EXTERN or getattr(extern_kernels, name) is not getattr(torch, EXTERN[name]):
            raise UnknownForm(f"the code calls extern_kernels.{name}")


class Recorder:
    """Stands for one of Inductor's kernels: launches it, and notes how."""

    def __init__(self, autotuner: Any) -> None:
        launchers: list[Any] = getattr(autotuner, "launchers", [])
        if len(launchers) != 1 or not getattr(launchers[0], "_is_static", False):
            raise UnknownForm(f"{autotuner!r:.80} is not a Triton kernel that PyTorch launches itself")
        self.autotuner, self.launches = autotuner, dict[tuple[Any, ...], Launch]()
        self.scope: dict[str, Any] = launchers[0].__globals__
        self.launch = self.scope["runner"]
        self.compiled = self.launch.__self__

    def run(self, *arguments: Any, stream: int) -> None:
        calls: list[list[Any]] = []
        self.scope["runner"] = lambda *call: calls.append([*call])
        try:
            self.autotuner.run(*arguments, stream=stream)
        finally:
            self.scope["runner"] = self.launch
        for x, y, z, _, *values in calls:
            self.launch(x, y, z, stream, *values)
            numbers = [one for one in arguments if not isinstance(one, Tensor)]
            given = [(isinstance(one, Tensor), _index(one, arguments)) for one in values]
            self.launches[tuple(numbers)] = Launch(numbers, [x, y, z], given)

    def kernel(self) -> Kernel:
        it = self.compiled
        scratch = "O" * (it.has_global_scratch + getattr(it, "has_profile_scratch", False))
        if unknown := {*it.arg_tys} - {*TYPES}:
            raise UnknownForm(f"the kernel {it.name} has parameters of the types {sorted(unknown)}")
        launches = [*self.launches.values()]
        return Kernel(it.name, f"{it.hash}.cubin", it.num_warps, it.shared, it.arg_tys + scratch, launches)

    def cubin(self) -> bytes:
        from torch._inductor.runtime.cache_dir_utils import triton_cache_dir
        from torch._inductor.runtime.runtime_utils import triton_hash_to_path_key

        folder = triton_cache_dir(torch.cuda.current_device()), triton_hash_to_path_key(self.compiled.hash)
        with open(os.path.join(*folder, f"{self.compiled.name}.cubin"), "rb") as file:
            return file.read()


def _index(value: Any, arguments: Sequence[Any]) -> Any:
    """Return the index of a tensor among the arguments, or a number itself."""
    if isinstance(value, Tensor):
        return next(i for i, one in enumerate(arguments) if one is value)
    return value
