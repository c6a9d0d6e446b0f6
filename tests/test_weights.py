import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION

from cldm.controlnet import ControlNet
from ldm.config import load_architecture
from ldm.weights import CheckpointError, check_finite, load_strict, randomize
from weights.read import read_tensors

TENSORS = {"a.weight": torch.arange(600.0).reshape(20, 30), "a.bias": torch.ones(3, dtype=torch.float16)}


def save(content: Any, path: Path) -> None:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(content, path)
    else:
        torch.save(content, path)


def cut(path: Path) -> None:
    save(TENSORS, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damaged_pickle(path: Path) -> None:
    """Write a complete zip file whose pickle reads a memo entry that was never stored."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02h\x01.")
        archive.writestr("archive/version", b"3\n")


def archive_of_a_text(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.safetensors", "weights")


NESTED = {"state_dict": TENSORS, "global_step": 7}  # a .safetensors file cannot be nested


@pytest.mark.parametrize(
    ("suffix", "content"),
    [(".safetensors", TENSORS), (".pth", TENSORS), (".ckpt", TENSORS), (".bin", TENSORS), (".ckpt", NESTED)],
)
def test_tensors_read_back_as_saved(tmp_path: Path, suffix: str, content: dict[str, Any]) -> None:
    save(content, tmp_path / f"weights{suffix}")
    tensors = read_tensors(tmp_path / f"weights{suffix}")
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


# A dict whose key is a tuple nested a million levels deep: hashing it would overflow the stack.
DEEP = b"\x80\x02})" + 1_000_000 * b"\x85" + b"K\x01s."

HEAD: tuple[object, ...] = (MAGIC_NUMBER, PROTOCOL_VERSION, {})
LEGACY = b"".join(pickle.dumps(value, 2) for value in HEAD)


def deep_key(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("deep/data.pkl", DEEP)
        archive.writestr("deep/version", b"3\n")


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("absent.pth", lambda path: None, "does not exist"),
        ("folder.pth", lambda path: path.mkdir(), "does not exist|is a folder"),
        ("cut.pth", cut, "cannot be read"),
        ("cut.safetensors", cut, "cannot be read"),
        ("empty.pth", lambda path: path.write_bytes(b""), "is empty"),
        ("empty.safetensors", lambda path: path.write_bytes(b""), "is empty"),
        ("text.pth", lambda path: path.write_text("version https://git-lfs\nsize 5\n"), "is a git-lfs pointer"),
        ("text.safetensors", lambda path: path.write_text("version https://git-lfs\nsize 5\n"), "is a git-lfs pointer"),
        ("page.ckpt", lambda path: path.write_text("\n<!DOCTYPE html><html></html>"), "is a web page"),
        ("notes.pth", lambda path: path.write_text("these are not the weights you want"), "cannot be read"),
        ("packed.zip", archive_of_a_text, "is an archive: give a file that is in it"),
        ("packed.bin", lambda path: path.write_bytes(b"\x1f\x8b\x08 and more"), "is an archive"),
        ("link.pth", lambda path: path.symlink_to("nowhere.pth"), "is a link to nowhere.pth, which does not exist"),
        ("damaged.pth", damaged_pickle, "cannot be read"),
        ("object.pth", lambda path: save({"a": Path("x")}, path), "holds Python objects other than tensors"),
        ("list.pth", lambda path: save([torch.ones(1)], path), "holds"),
        ("number.pth", lambda path: save({"a": 1}, path), "holds"),
        ("deep.pth", deep_key, "has more than 50000 tuples"),
        ("deep_before.pth", lambda path: path.write_bytes(LEGACY + DEEP), "has more than 50000 tuples"),
        ("names.pth", lambda path: save({1: torch.ones(1)}, path), "holds"),
    ],
)
def test_unusable_file_is_one_sentence(tmp_path: Path, name: str, make: Callable[[Path], object], message: str) -> None:
    path = tmp_path / name
    make(path)
    with pytest.raises(CheckpointError, match=rf"^checkpoint {re.escape(str(path))} ({message})") as caught:
        read_tensors(path)
    text = str(caught.value)
    assert text.isprintable(), f"the message has more than one line, or terminal codes: {text!r}"
    assert re.search(r"\b(give|fetch|choose)\b", text), f"the message does not state what to do: {text}"
    assert "can still be loaded" not in text, "the message advises the user to trust the file"


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before zip"])
@pytest.mark.parametrize("name", ["torch.safetensors", "torch.SAFETENSORS", "torch", "torch.ckpt"])
def test_content_decides_what_a_pytorch_file_is(tmp_path: Path, name: str, old: bool) -> None:
    torch.save(TENSORS, tmp_path / name, _use_new_zipfile_serialization=not old)
    tensors = read_tensors(tmp_path / name)
    assert all(torch.equal(tensors[key], tensor) for key, tensor in TENSORS.items())


@pytest.mark.parametrize("name", ["safe.pth", "safe.SAFETENSORS", "safe"])
def test_content_decides_what_a_safetensors_file_is(tmp_path: Path, name: str) -> None:
    safetensors.torch.save_file(TENSORS, tmp_path / name)
    tensors = read_tensors(tmp_path / name)
    assert all(torch.equal(tensors[key], tensor) for key, tensor in TENSORS.items())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_tensor_that_is_not_finite_is_named(value: float) -> None:
    module = layers()
    check_finite(module, "checkpoint x")
    module.get_parameter("layer_2.weight").data[1, 0] = value
    with pytest.raises(CheckpointError, match=r"checkpoint x: tensor layer_2\.weight holds NaN or infinite values"):
        check_finite(module, "checkpoint x")


def layers() -> nn.Module:
    return nn.ModuleDict({f"layer_{i}": nn.Linear(2, 2) for i in range(4)})


def test_load_strict_converts_to_float32(tmp_path: Path) -> None:
    halves = {name: tensor.half() for name, tensor in layers().state_dict().items()}
    save(halves, tmp_path / "half.safetensors")
    with torch.device("meta"):
        module = layers()
    load_strict(module, read_tensors(tmp_path / "half.safetensors"), "half", torch.device("cpu"))
    for name, tensor in module.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, halves[name].float())


def test_load_strict_without_a_device_assigns_the_tensors_themselves() -> None:
    module, given = layers(), layers().half().state_dict()
    load_strict(module, given, "half")
    assert all(tensor.data_ptr() == given[name].data_ptr() for name, tensor in module.state_dict().items())


def test_load_strict_keeps_integer_tensors() -> None:
    module = nn.Module()
    module.register_buffer("ids", torch.zeros(3, dtype=torch.int64))
    load_strict(module, {"ids": torch.arange(3)}, "source", torch.device("cpu"))
    assert module.state_dict()["ids"].tolist() == [0, 1, 2]
    assert module.state_dict()["ids"].dtype == torch.int64


def without(*names: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in layers().state_dict().items() if name not in names}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (without("layer_2.bias"), "got 7 tensors, expected 8; 1 missing, first layer_2.bias;"),
        (
            {},
            "got 0 tensors, expected 8; 8 missing, first layer_0.weight, layer_0.bias, layer_1.weight, layer_1.bias, "
            "layer_2.weight;",
        ),
        (
            {**without(), **{f"odd_{i}": torch.ones(1) for i in range(6)}},
            "expected 8; 6 unexpected, first odd_0, odd_1, odd_2, odd_3, odd_4;",
        ),
        (
            {**without(), "layer_3.bias": torch.ones(3), "layer_1.weight": torch.ones(4)},
            "expected 8; 2 of the wrong shape, first layer_1.weight, layer_3.bias;",
        ),
        (
            {**without("layer_0.bias"), "odd": torch.ones(1), "layer_1.bias": torch.ones(1, 2)},
            "expected 8; 1 missing, 1 unexpected, 1 of the wrong shape, first layer_0.bias, odd, layer_1.bias;",
        ),
    ],
    ids=["one missing", "all missing", "unexpected", "misshapen", "all kinds"],
)
def test_mismatch_is_reported_with_counts_and_changes_nothing(tensors: dict[str, Tensor], message: str) -> None:
    module = layers()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        load_strict(module, tensors, "checkpoint x.pth")
    assert str(caught.value).startswith("checkpoint x.pth does not fit")
    assert str(caught.value).isprintable()
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def random_state(seed: int, global_seed: int) -> dict[str, Tensor]:
    torch.manual_seed(global_seed)
    module = nn.Sequential(nn.Conv2d(4, 8, 3), nn.GroupNorm(2, 8), nn.Linear(8, 8))
    before = torch.get_rng_state()
    randomize(module, seed)
    assert torch.equal(torch.get_rng_state(), before), "randomize changed the state of the global generator"
    return module.state_dict()


def test_random_weights_depend_on_the_seed_alone() -> None:
    first, again, other = random_state(3, 1), random_state(3, 2), random_state(4, 1)
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name])
        assert not torch.equal(tensor, other[name])


def test_random_weights_in_inference_mode() -> None:
    expected = random_state(3, 1)
    with torch.inference_mode():
        assert all(torch.equal(tensor, expected[name]) for name, tensor in random_state(3, 1).items())


def test_random_zero_convolutions_are_not_zero() -> None:
    architecture = load_architecture("small")
    control = ControlNet(architecture.unet, architecture.control)
    randomize(control, 0)
    ends = [*control.zero_convs, control.middle_block_out, control.input_hint_block[-1]]
    assert len(ends) == 14
    for end in ends:
        assert all(bool((parameter != 0).any()) for parameter in end.parameters())


def test_a_file_that_contains_itself_is_refused(tmp_path: Path) -> None:
    content: dict[Any, Any] = {}
    content["state_dict"] = content
    torch.save(content, tmp_path / "itself.pth")
    with pytest.raises(CheckpointError, match="does not map names to tensors"):
        read_tensors(tmp_path / "itself.pth")


def test_packed_values_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2, dtype=torch.float4_e2m1fn_x2)}, tmp_path / "packed.pth")
    with pytest.raises(CheckpointError, match=r"a is a packed tensor of torch\.float4_e2m1fn_x2, expected dense"):
        read_tensors(tmp_path / "packed.pth")
