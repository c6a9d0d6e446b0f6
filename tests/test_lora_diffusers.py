"""Merged weights equal those of diffusers with the same LoRA fused."""

from typing import Any

import pytest
from torch import Tensor

from cldm.model import ControlLDM
from tests.test_lora import LAYOUTS, SHAPES, SMALL, lora, theirs
from weights.lora import merge, read_lora
from weights.lora_names import TEXT

pytest.importorskip("diffusers", reason="merged weights are compared with diffusers")
pytest.importorskip("peft", reason="diffusers loads LoRA files with peft")
from diffusers import DDIMScheduler, StableDiffusionPipeline

from tests.test_diffusers_parity import diffusers_unet, model, transformers_text

__all__ = ["model"]  # the fixture
STRENGTH = 0.7


def pipeline(model: ControlLDM) -> Any:
    """Return diffusers' pipeline of the same weights, with the parts that a LoRA can change."""
    return StableDiffusionPipeline(
        unet=diffusers_unet(model),
        text_encoder=transformers_text(model),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        **dict.fromkeys(("vae", "tokenizer", "safety_checker", "feature_extractor")),
        requires_safety_checker=False,
    )


def fused(pipe: Any, file: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return diffusers' weights with the LoRA fused, under ControlLDM's names."""
    pipe.load_lora_weights(dict(file))
    pipe.fuse_lora(lora_scale=STRENGTH)
    pipe.unload_lora_weights()  # takes the factors away; the fused weights stay
    unet, text = pipe.unet.state_dict(), pipe.text_encoder.state_dict()
    text = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in text.items()}
    return {weight: (text if weight.startswith(TEXT) else unet)[f"{theirs(weight)}.weight"] for weight in SHAPES}


@pytest.mark.parametrize(
    ("layout", "alpha"),
    [("kohya", True), ("kohya", False), ("PEFT", False), ("diffusers", False), ("processors", False)],
)
def test_every_weight_equals_that_of_diffusers(model: ControlLDM, layout: str, alpha: bool) -> None:
    file = {
        name: tensor if name.endswith("alpha") else 0.1 * tensor
        for name, tensor in lora(*LAYOUTS[layout], alpha).items()
    }
    patches, before = read_lora(file, "a.safetensors", SMALL), model.state_dict()
    assert patches.keys() == SHAPES.keys()
    for weight, expected in fused(pipeline(model), file).items():
        merged = merge(before[weight], [(patches[weight], STRENGTH)])
        assert (merged - expected).abs().max() < 1e-5, weight
        assert (merged - before[weight]).abs().max() > 1e-3, weight
