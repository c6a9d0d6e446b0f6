"""LoRA files with strengths: options, folders, and alphas that are not in the tensors."""

import json
import math
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from cldm.options import parse_lora
from ldm.config import load_architecture
from ldm.weights import CheckpointError
from weights.lora import Patch, read_lora
from weights.loras import METADATA, lora_file, merged, read_loras

SMALL = load_architecture("small")
LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
WEIGHT = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"
TENSORS = {f"unet.{LAYER}.lora_A.weight": torch.ones(4, 96), f"unet.{LAYER}.lora_B.weight": torch.ones(96, 4)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("style.safetensors", ("style.safetensors", 1.0)),
        ("style.safetensors:0.7", ("style.safetensors", 0.7)),
        ("a:b/style.safetensors:-1", ("a:b/style.safetensors", -1.0)),
        ("a:b/style.safetensors", ("a:b/style.safetensors", 1.0)),
    ],
)
def test_option(text: str, expected: tuple[str, float]) -> None:
    assert parse_lora(text) == expected


def scale(path: Path) -> float:
    ((patch, strength),) = read_loras(((str(path), 1.0),), SMALL)[WEIGHT]
    return patch.scale * strength


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"lora_alpha": 8, "r": 4}, 2.0), ({"lora_alpha": 8, "use_rslora": True}, 8 / math.sqrt(4)), ({"r": 4}, 1.0)],
)
def test_alpha_of_the_settings(settings: dict[str, Any], expected: float, tmp_path: Path) -> None:
    named = {f"unet.{name}": value for name, value in settings.items()}
    safetensors.torch.save_file(TENSORS, tmp_path / "one.safetensors", {METADATA: json.dumps(named)})
    assert scale(tmp_path / "one.safetensors") == pytest.approx(expected)
    (tmp_path / "peft").mkdir()
    safetensors.torch.save_file(TENSORS, tmp_path / "peft" / "adapter_model.safetensors")
    (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps(settings))
    assert scale(tmp_path / "peft") == pytest.approx(expected)


@pytest.mark.parametrize("text", ["{bad", "[1]", '{"unet.lora_alpha": "x"}', '{"unet.lora_alpha": true}'])
def test_damaged_settings(text: str, tmp_path: Path) -> None:
    safetensors.torch.save_file(TENSORS, tmp_path / "one.safetensors", {METADATA: text})
    with pytest.raises(CheckpointError, match=r"fetch it again"):
        scale(tmp_path / "one.safetensors")


def test_pytorch_file_with_the_suffix_of_safetensors(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "one.safetensors")
    assert scale(tmp_path / "one.safetensors") == 1.0


def test_alpha_in_the_tensors_counts_first(tmp_path: Path) -> None:
    tensors = TENSORS | {f"unet.{LAYER}.alpha": torch.tensor(1.0)}
    safetensors.torch.save_file(tensors, tmp_path / "one.safetensors", {METADATA: '{"unet.lora_alpha": 8}'})
    assert scale(tmp_path / "one.safetensors") == 0.25


def test_alphas_by_layer_are_refused(tmp_path: Path) -> None:
    settings = json.dumps({"unet.lora_alpha": 8, "unet.alpha_pattern": {"to_q": 4}})
    safetensors.torch.save_file(TENSORS, tmp_path / "one.safetensors", {METADATA: settings})
    with pytest.raises(CheckpointError, match=r"has an alpha or rank for each layer .* save it with one alpha"):
        scale(tmp_path / "one.safetensors")


def test_folder_without_a_lora(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"LoRA .* is a folder without one: expected one of pytorch_lora_weights"):
        scale(tmp_path)


def test_merged_weights() -> None:
    patches = read_loras_from(TENSORS)
    base = {WEIGHT: torch.zeros(96, 96, dtype=torch.float16), "other": torch.ones(2)}
    found = dict(merged(base, patches, [WEIGHT, "other"], torch.device("cpu")))
    assert torch.equal(found[WEIGHT], torch.full((96, 96), 4.0 * 0.5))
    assert torch.equal(found["other"], torch.ones(2))


def read_loras_from(tensors: dict[str, torch.Tensor]) -> Any:
    return {name: [(patch, 0.5)] for name, patch in read_lora(tensors, "test", SMALL).items()}


@pytest.mark.parametrize(("alpha", "strength"), [(1e38, 1.0), (1.0, 1e38), (3e38, 3e38)])
def test_a_change_that_overflows_is_refused(alpha: float, strength: float, tmp_path: Path) -> None:
    architecture = load_architecture("small")
    name = "lora_unet_input_blocks_1_1_proj_in"
    tensors = {f"{name}.lora_down.weight": torch.ones(2, 32), f"{name}.lora_up.weight": torch.ones(32, 2)}
    safetensors.torch.save_file(tensors | {f"{name}.alpha": torch.tensor(alpha)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"LoRA .*a\.safetensors at strength .* use a smaller strength"):
        read_loras(((str(tmp_path / "a.safetensors"), strength),), architecture)


def test_the_bound_holds() -> None:
    generator = torch.Generator().manual_seed(0)
    for mid in (None, torch.randn(3, 3, 2, 2, generator=generator)):
        patch = Patch(torch.randn(3, 8, generator=generator), torch.randn(6, 3, generator=generator), mid, -0.5)
        largest = float(patch.delta([6, 8] if mid is None else [6, 8, 2, 2], "cpu").abs().max())
        assert largest <= patch.bound() <= 20 * largest


def test_a_strength_that_is_no_number(tmp_path: Path) -> None:
    (tmp_path / "style.safetensors").touch()
    with pytest.raises(ArgumentTypeError, match=r"^got the strength 'abc', expected a number such as 0\.8$"):
        parse_lora(f"{tmp_path}/style.safetensors:abc")


def test_missing_file() -> None:
    with pytest.raises(CheckpointError, match=r"^LoRA a/absent\.safetensors does not exist: give"):
        lora_file("a/absent.safetensors")
