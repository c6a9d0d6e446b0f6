"""Stage outputs match their specs, at the real size too, and stages agree on the tensors that they share."""

import pytest
import torch

from cldm.columns import Columns
from cldm.fast import make_fast
from cldm.model import ControlLDM
from cldm.stages import make_stages, to_uint8
from cldm.tricks.text_once import pack, unpack
from ldm.config import load_architecture
from runtime.spec import TensorSpec, allocate


def meta(spec: TensorSpec) -> torch.Tensor:
    return torch.empty(spec.shape, dtype=spec.dtype, device="meta")


@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("architecture", "height", "width", "samples"),
    [("sd15", 256, 384, 1), ("sd15", 512, 320, 3), ("small", 256, 384, 1), ("small", 64, 64, 2)],
)
def test_outputs_have_the_shapes_of_the_spec(
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
    assert buffers["pixels"].shape == (1, 3, 256, 384)


def test_pack_and_unpack() -> None:
    layers = [(torch.randn(2, 77, width), torch.randn(2, 77, width)) for width in (8, 16, 8)]
    bank = pack(layers)
    assert bank.shape == (2, 77, 64)
    for (k, v), (k_again, v_again) in zip(layers, unpack(bank, Columns(0, (8, 8, 16, 16, 8, 8))), strict=True):
        assert torch.equal(k, k_again)
        assert torch.equal(v, v_again)


def test_uint8_truncates() -> None:
    values = torch.tensor([-2.0, -1.0, 0.0, 0.9999 / 127.5, 1.0, 2.0])
    picture = values.view(1, 1, 1, -1).expand(1, 3, 1, -1)
    assert to_uint8(picture)[0, 0, :, 0].tolist() == [0, 0, 127, 128, 255, 255]
