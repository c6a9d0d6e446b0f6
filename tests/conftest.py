"""Fixtures for several test files. Tests marked `gpu` are skipped without a CUDA device."""

import gc
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import ldm.config
from canny2image_TRT import hackathon
from cldm.checkpoint import SMALL_MODEL
from cldm.checkpoint_choice import find_checkpoint
from cldm.model import ControlLDM
from tests import exporter_table

# A command that a script starts with & ignores SIGINT, and so would the processes that tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# torch.compile imports setuptools, which fails in Python 3.10 and 3.11 after a test has imported pip: import it first.
with suppress(ImportError):
    import setuptools  # noqa: F401


LONGEST = (  # test groups
    "exported", "test_batch.py", "test_compute_score.py", "test_hackathon_replaced.py", "test_page.py",
    "test_page_actions.py", "test_pipeline.py", "test_server_ray.py", "test_tensorrt_backend.py",
    "test_tensorrt_refit.py", "test_training.py", "test_weight_files.py",
)  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    # Inductor would compile a program for each kind of vector instructions, to see whether it runs, in 15 s per cache.
    os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")
    if hasattr(config.option, "loadscopereorder"):  # pytest-xdist would start the groups with the most tests first
        config.option.loadscopereorder = False
    if hasattr(config, "workerinput"):  # one of several processes, one per core: more threads would only compete
        os.environ["OMP_NUM_THREADS"] = "1"  # for commands that tests run
        torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    exporter_table.read_once()
    gc.freeze()  # collections of garbage no longer visit the imported modules, which takes a tenth of an export


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and PyTorch sees none here"))
        # With several processes (make test), each file runs in one process, as do all tests of the exported model.
        needed = getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("exported" if "exported" in needed else item.path.name))
    # The slowest groups run first, so that the other processes do not wait for them at the end.
    items.sort(key=lambda item: next(item.iter_markers("xdist_group")).args[0] not in LONGEST)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Add an architecture "tiny" next to "small", with two levels, so that exporting it takes only seconds."""
    add_tiny(monkeypatch, tmp_path)


def add_tiny(patch: pytest.MonkeyPatch, folder: Path, **unet: object) -> None:
    """Add the architecture "tiny". unet: other values of its UNet."""
    models = folder / "models"
    models.mkdir()
    values = yaml.safe_load((ldm.config.MODELS / "small.yaml").read_text())
    (models / "small.yaml").write_text(yaml.safe_dump(values))
    values["unet"].update({"channel_mult": [1, 2], "res_blocks": 1, "attention_levels": [1], **unet})
    values["vae"].update(channel_mult=[1, 1, 1, 1])
    values["text"].update(layers=1)
    (models / "tiny.yaml").write_text(yaml.safe_dump(values))
    patch.setattr(ldm.config, "MODELS", models)


@pytest.fixture(scope="session")
def runtime() -> hackathon:
    made = hackathon("random:0", plan="19,4", device="cpu")
    made.initialize()
    return made


@pytest.fixture(scope="session")
def trained() -> hackathon:
    """Return a runtime with trained weights, which respond to edges and prompts."""
    made = hackathon(str(SMALL_MODEL), plan="19,4", device="cpu")
    made.initialize()
    return made


# Height, width and batch of the exported models: "small" in half precision and, in a fourth of the time, "tiny" in
# float32. Half precision is slow on the CPU, so its pictures are smaller; their smallest feature maps have 2x1 pixels.
SIZES = {torch.float32: (256, 384, 1), torch.float16: (128, 64, 1)}
# Attention layers by stage, in both.
ATTENTIONS = {
    torch.float16: {"text": 3, "hint": 0, "control": 14, "encoder": 14, "decoder": 18, "vae": 1},
    torch.float32: {"text": 1, "hint": 0, "control": 4, "encoder": 4, "decoder": 4, "vae": 1},
}
Exported = Callable[[torch.dtype], tuple[Any, dict[str, Path]]]


def exported_model(dtype: torch.dtype, folder: Path) -> ControlLDM:
    """Return the model that `exported` exports in this precision, in float32. folder: an empty one."""
    if dtype == torch.float16:
        return find_checkpoint(str(SMALL_MODEL)).load_model()
    with pytest.MonkeyPatch.context() as patch:
        add_tiny(patch, folder)
        return find_checkpoint("random:0", "tiny").load_model()


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Return a function of the dtype: a model's trial (build.verify.Trial) and ONNX files by stage, cached."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason="./preprocess.sh dev installs the exporter and onnxruntime")
    from build.export import export
    from build.verify import prepare

    @cache
    def make(dtype: torch.dtype) -> tuple[Any, dict[str, Path]]:
        model, size = exported_model(dtype, tmp_path_factory.mktemp("architecture")), SIZES[dtype]
        trial = prepare(model, dtype, size, torch.device("cpu"))
        return trial, {spec.name: path for spec, path in export(model, size, tmp_path_factory.mktemp("onnx"))}

    return make


class NothingFromTheHost(TorchDispatchMode):
    """Asserts that every tensor of every operation is on the device meta, because capture allows no host tensors.

    Reading a value back fails without this check, because meta tensors have no values.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        assert {tensor.device.type for tensor in tensors} <= {"meta"}, func
        return result


@pytest.fixture
def nothing_from_the_host() -> TorchDispatchMode:
    """Return a context in which work on the device meta fails if a CUDA graph could not capture it."""
    return NothingFromTheHost()
