"""What engine files of compiled code hold: the code of each stage, and all that the code needs besides the weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

import plugins.layers  # noqa: F401  (its ops must exist)
from plugins.machine_code import KERNELS
from runtime.call_lock import current
from runtime.compiled_code import install, load_code


class CodeError(ValueError):
    """PyTorch cannot load compiled code."""


@dataclass(frozen=True)
class Compiled:
    """code: by stage, from `CompiledCode.save`. kernel: machine code of our ops. library: files in Inductor's cache."""

    code: Mapping[str, bytes]
    kernel: Mapping[str, bytes]
    library: Mapping[str, bytes]

    @classmethod
    def of(cls, parts: Mapping[str, bytes]) -> "Compiled":
        """Return what `parts` were made of."""
        kinds: dict[str, dict[str, bytes]] = {"code": {}, "kernel": {}, "library": {}}
        for path, data in parts.items():
            kind, _, name = path.partition("/")
            kinds[kind if name else "code"][name or kind] = data
        return cls(**kinds)

    @property
    def parts(self) -> dict[str, bytes]:
        """All data by name: stages, and `kernel/...` and `library/...`."""
        others = {"kernel": self.kernel, "library": self.library}
        return {**self.code, **{f"{kind}/{name}": data for kind, some in others.items() for name, data in some.items()}}

    def load(self, device: torch.device) -> dict[str, Any]:
        """Return the code by stage, ready to run. Raises CodeError if PyTorch cannot load it."""
        KERNELS.update(self.kernel)
        try:
            install(self.library)
            with current(device):
                return {stage: load_code(saved) for stage, saved in self.code.items()}
        except Exception as error:  # unknown bytes can cause any exception, and the cache may not be writable
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise CodeError(f"PyTorch cannot load the code ({reason})") from error
