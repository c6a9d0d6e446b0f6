"""Tests marked `gpu` are skipped, with the reason, where there is no CUDA device; and what several tests use."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import ldm.config

# torch.compile imports setuptools, which fails in Python 3.10 and 3.11 once a test has imported pip: so it comes first.
with suppress(ImportError):
    import setuptools  # noqa: F401


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and PyTorch sees none here"))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An architecture of this name beside "small": two levels, so that exporting it takes seconds."""
    models = tmp_path / "models"
    models.mkdir()
    values = yaml.safe_load((ldm.config.MODELS / "small.yaml").read_text())
    (models / "small.yaml").write_text(yaml.safe_dump(values))
    values["unet"].update(channel_mult=[1, 2], res_blocks=1, attention_levels=[1])
    values["vae"].update(channel_mult=[1, 1, 1, 1])
    values["text"].update(layers=1)
    (models / "tiny.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setattr(ldm.config, "MODELS", models)


class NothingFromTheHost(TorchDispatchMode):
    """Every tensor of every operation is on the device meta: what a CUDA graph records may touch no other.

    Reading a value back fails there by itself, meta tensors have none.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        assert {tensor.device.type for tensor in tensors} <= {"meta"}, func
        return result


@pytest.fixture
def nothing_from_the_host() -> TorchDispatchMode:
    """A context in which work on the device meta fails where a CUDA graph could not record it."""
    return NothingFromTheHost()
