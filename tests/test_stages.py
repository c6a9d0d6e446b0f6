"""Every stage gives what its spec says, at the real size too, and shared tensors agree."""

import pytest
import torch
from cldm.kv import pack, unpack

from cldm.checkpoint import Checkpoint
from cldm.fast import make_fast
from cldm.model import ControlLDM
from cldm.stages import make_stages, to_uint8
from ldm.config import load_architecture
from runtime.spec import TensorSpec, allocate


def meta(spec: TensorSpec) -> torch.Tensor:
    return torch.empty(spec.shape, dtype=spec.dtype, device="meta")


@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("architecture", "height", "width", "samples"),
    [("sd15", 256, 384, 1), ("sd15", 512, 320, 3), ("small", 256, 384, 1), ("small", 64, 64, 2)],
)
def test_outputs_have_the_specs_shapes(
    architecture: str, height: int, width: int, samples: int, precision: torch.dtype
) -> None:
    with torch.device("meta"):
        model = make_fast(ControlLDM(load_architecture(architecture)), precision)
    stages = make_stages(model, height, width, samples)
    assert list(stages) == ["text", "hint", "control", "encoder", "decoder", "vae"]
    for stage in stages.values():
        inputs = [meta(spec) for spec in stage.spec.inputs]
        for output, spec in zip(stage.module(*inputs), stage.spec.outputs, strict=True):
            assert tuple(output.shape) == spec.shape, f"{stage.spec.name}: {spec.name}"
            if spec.name != "eps":
                assert output.dtype == spec.dtype, f"{stage.spec.name}: {spec.name}"


def test_real_size() -> None:
    with torch.device("meta"):
        stages = make_stages(ControlLDM(load_architecture("sd15")), 256, 384, 1)
    buffers = allocate({name: stage.spec for name, stage in stages.items()}, torch.device("meta"))
    assert buffers["kv"].shape == (2, 77, 36480)
    assert buffers["control_12"].shape == buffers["middle"].shape == (2, 1280, 4, 6)
    assert buffers["skip_11"].shape == (2, 1280, 4, 6)
    assert buffers["skip_0"].shape == (2, 320, 32, 48)
    assert buffers["control_scales"].shape == (2, 13)
    assert buffers["image"].shape == (1, 256, 384, 3)


def test_pack_and_unpack() -> None:
    layers = [(torch.randn(2, 77, width), torch.randn(2, 77, width)) for width in (8, 16, 8)]
    bank = pack(layers)
    assert bank.shape == (2, 77, 64)
    for (k, v), (k_again, v_again) in zip(layers, unpack(bank, (8, 16, 8)), strict=True):
        assert torch.equal(k, k_again)
        assert torch.equal(v, v_again)


def test_uint8_truncates() -> None:
    values = torch.tensor([-2.0, -1.0, 0.0, 0.9999 / 127.5, 1.0, 2.0])
    picture = values.view(1, 1, 1, -1).expand(1, 3, 1, -1)
    assert to_uint8(picture)[0, 0, :, 0].tolist() == [0, 0, 127, 128, 255, 255]


def test_one_latent_for_several_texts_is_the_latent_repeated() -> None:
    model = Checkpoint("random:0", "small", "given").load_model()
    generator = torch.Generator().manual_seed(0)
    x, hint = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(1, 32, 8, 8, generator=generator)
    texts = model.control.keys_values(torch.randn(4, 77, 96, generator=generator))
    shifts = model.control.time_shifts(torch.tensor([500]))
    once, middle = model.control.encode(x, shifts, texts, hint)
    repeated, same_middle = model.control.encode(torch.cat([x, x]), shifts, texts, hint)
    torch.testing.assert_close([*once, middle], [*repeated, same_middle], rtol=1e-5, atol=1e-4)
    assert not torch.allclose(middle[:2], middle[2:]), "the texts differ"
