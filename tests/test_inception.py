import hashlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor

from scoring import inception
from scoring.inception import FILE_NAME, Inception, load_inception, read_weights, seeded_weights
from scoring.inception_v3 import InceptionV3


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: on shared cores, several threads wait for each other and take ten times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def nothing_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide this machine's real weight files, and reset the cache that logs the warning only once."""
    monkeypatch.setattr(inception, "MODELS", tmp_path / "models")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    inception._say_where_to_put_the_file.cache_clear()


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return seeded_weights()


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """Return a noise picture and a smooth picture: uint8 [2, 3, 64, 96]."""
    noise = torch.randint(0, 256, (3, 64, 96), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(96), indexing="ij")
    return torch.stack([noise, torch.stack([rows * 3, columns * 2, rows + columns]).to(torch.uint8)])


def save(state: object, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path


def call_it_real(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception, "SHA256_PREFIX", hashlib.sha256(path.read_bytes()).hexdigest()[:8])


def test_tensors_match_the_real_file(state: dict[str, Tensor]) -> None:
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    assert len(shapes) == 566  # 94 convolutions with 6 tensors each, and 2 of fc
    assert sum(value.numel() for value in state.values()) == 23_885_486
    assert not any(key.startswith("AuxLogits") for key in shapes)
    expected: dict[str, tuple[int, ...]] = {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Mixed_5b.branch1x1.bn.running_mean": (64,),
        "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
        "Mixed_5d.branch_pool.conv.weight": (64, 288, 1, 1),
        "Mixed_6a.branch3x3.conv.weight": (384, 288, 3, 3),
        "Mixed_6b.branch7x7_2.conv.weight": (128, 128, 1, 7),
        "Mixed_6e.branch7x7dbl_5.conv.weight": (192, 192, 1, 7),
        "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3),
        "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
        "Mixed_7c.branch_pool.bn.num_batches_tracked": (),
        "fc.weight": (1008, 2048),
        "fc.bias": (1008,),
    }
    assert {key: shapes.get(key) for key in expected} == expected


def test_without_a_file_the_weights_are_seeded(
    state: dict[str, Tensor], pictures: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with caplog.at_level(logging.WARNING):
        first = load_inception()
    assert torch.equal(torch.get_rng_state(), before), "loading changed the state of torch's generator"
    torch.manual_seed(2)
    second = load_inception()
    assert (first.metric_name, first.real, first.weights) == ("PD*", False, None)
    assert [FILE_NAME in record.getMessage() for record in caplog.records] == [True], "expected one warning"
    features = first(pictures)
    assert torch.equal(features, second(pictures))
    assert features.dtype == torch.float32
    assert features.shape == (2, 2048)
    other = seeded_weights(seed=1)
    assert not torch.equal(other["Mixed_7c.branch1x1.conv.weight"], state["Mixed_7c.branch1x1.conv.weight"])


def test_seeded_features_neither_vanish_nor_blow_up(pictures: Tensor) -> None:
    features = load_inception()(pictures)
    assert torch.all((features.mean(dim=1) > 0.03) & (features.mean(dim=1) < 1))
    assert 0.5 < float(torch.linalg.vector_norm(features[0] - features[1])) < 50


@pytest.mark.parametrize("place", ["models", "hub/checkpoints"])
def test_real_file_is_found_in_the_usual_places(
    place: str, tmp_path: Path, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(state, tmp_path / place / FILE_NAME)
    call_it_real(path, monkeypatch)
    found = load_inception()
    assert (found.metric_name, found.weights) == ("PD", path)
    assert all(torch.equal(value, state[key]) for key, value in found.network.state_dict().items())


def test_other_weights_give_pd_star(tmp_path: Path, state: dict[str, Tensor]) -> None:
    halved = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    other = load_inception(save(halved, tmp_path / "other.pth"))
    assert other.metric_name == "PD*"
    assert other.network.fc.weight.dtype == torch.float32


def test_real_name_with_other_content_is_rejected(tmp_path: Path, state: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="its sha256 starts with"):
        load_inception(save(state, tmp_path / FILE_NAME))


def test_missing_file_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.pth does not exist"):
        load_inception(tmp_path / "absent.pth")


def test_file_that_is_not_a_checkpoint_is_rejected(tmp_path: Path, state: dict[str, Tensor]) -> None:
    text, torn = tmp_path / "text.pth", save(state["fc.weight"], tmp_path / "torn.pth")
    text.write_text("not a checkpoint")
    torn.write_bytes(torn.read_bytes()[:-200])
    for path in (text, torn):
        with pytest.raises(ValueError, match=rf"{path.name}: expected a PyTorch checkpoint"):
            load_inception(path)
    with pytest.raises(ValueError, match="expected a dict of tensors, got a list"):
        load_inception(save([1, 2], tmp_path / "list.pth"))


def test_tensors_that_do_not_fit_are_rejected(tmp_path: Path, state: dict[str, Tensor]) -> None:
    missing = {key: value for key, value in state.items() if key != "Mixed_6a.branch3x3.conv.weight"}
    wrong = {
        "Mixed_6a.branch3x3.conv.weight is missing and should be": missing,
        "AuxLogits.fc.bias is .* and should be absent": state | {"AuxLogits.fc.bias": torch.zeros(8)},
        "fc.bias is .1000. and should be .1008.": state | {"fc.bias": torch.zeros(1000)},
        "fc.bias is a str": state | {"fc.bias": "text"},
    }
    for message, content in wrong.items():
        with pytest.raises(ValueError, match=rf": 1 tensors? do.* not fit the FID network's 566 .{message}"):
            inception.read_weights(save(content, tmp_path / "wrong.pth"))


@pytest.mark.parametrize("pictures", [torch.zeros(1, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8)])
def test_pictures_of_other_dtypes_or_shapes_are_rejected(pictures: Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \[n, 3, h, w\]"):
        InceptionV3()(pictures)


def test_features_match_pytorch_fid(pictures: Tensor, state: dict[str, Tensor]) -> None:
    pytest.importorskip("torchvision", reason="pytorch-fid builds its network from torchvision")
    theirs = pytest.importorskip("pytorch_fid.inception", reason="pytorch-fid defines PD")
    lively = dict(state)  # with non-trivial batch norms, so that a missing norm changes the features
    generator = torch.Generator().manual_seed(3)
    for key, value in state.items():
        if key.endswith(("bn.bias", "bn.running_mean")):
            lively[key] = 0.3 * torch.randn(value.shape, generator=generator)
        elif key.endswith(("bn.weight", "bn.running_var")):
            lively[key] = 0.5 + torch.rand(value.shape, generator=generator)
    ours = InceptionV3()
    ours.load_state_dict(lively)
    with mock.patch.object(theirs, "load_state_dict_from_url", return_value=lively), torch.no_grad():
        expected = theirs.InceptionV3([theirs.InceptionV3.DEFAULT_BLOCK_INDEX]).eval()(pictures / 255)[0].flatten(1)
    features = Inception(ours.eval(), None, real=False)(pictures)
    assert float((features - expected).abs().max() / expected.abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda bias: bias * torch.nan, "fc.bias holds NaN or infinite values"),
        (lambda bias: bias + torch.inf, "fc.bias holds NaN or infinite values"),
        (lambda bias: bias.int(), r"fc.bias is a torch.int32 tensor \(strided\), expected dense floating-point"),
        (lambda bias: bias * 1j, r"fc.bias is a torch.complex64 tensor \(strided\), expected dense floating-point"),
        (lambda bias: bias.to_sparse(), r"fc.bias is a torch.float32 tensor \(sparse_coo\), expected dense"),
        (lambda bias: bias.to("meta"), r"fc.bias is a torch.float32 tensor \(meta\), expected dense"),
    ],
    ids=range(6),
)
def test_tensors_of_a_wrong_kind_are_named(
    change: Callable[[Tensor], Tensor], problem: str, monkeypatch: pytest.MonkeyPatch, state: dict[str, Tensor]
) -> None:
    wrong = state | {"fc.bias": change(state["fc.bias"])}
    monkeypatch.setattr(torch, "load", lambda *arguments, **options: wrong)
    with pytest.raises(ValueError, match=rf"other\.pth: {problem}.*; replace it with pytorch-fid's"):
        read_weights(Path("other.pth"))
