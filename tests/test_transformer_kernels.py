"""The errors of the transformers' kernels are at most twice those of PyTorch's half-precision kernels."""

from collections.abc import Sequence
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("triton", reason="needs Triton, which only PyTorch for CUDA includes")

from ldm.attention import ProjectOut, SpatialTransformer, attend, causal_mask
from plugins.attention import products_attention
from plugins.folded_norms import fold_norms
from plugins.products import geglu, linear_add
from plugins.short_attention.op import attention
from plugins.transformer import FusedProjectOut, fuse_attention, fuse_products
from runtime.channels_last import channels_last
from tests.hopper import check, needs_hopper

pytestmark = pytest.mark.gpu


def random(*shape: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return (scale * torch.randn(shape, generator=generator)).half().cuda()


ATTENTIONS = [  # rows, tokens, heads, width
    (384, 384, 8, 640), (96, 96, 8, 1280), (24, 24, 8, 1280), (1536, 77, 8, 320), (384, 77, 8, 640), (96, 77, 8, 1280),
    (24, 154, 8, 1280), (96, 96, 2, 96), (384, 77, 2, 64), (1536, 77, 2, 32),
    (1536, 1536, 2, 32), (700, 700, 3, 24), (5, 7, 1, 40), (1, 1, 3, 48),
]  # fmt: skip


@needs_hopper
@pytest.mark.parametrize("sizes", ATTENTIONS, ids=str)
@pytest.mark.parametrize("n", [2, 3, 16])
def test_attention(n: int, sizes: tuple[int, int, int, int]) -> None:
    rows, tokens, heads, width = sizes
    packed = random(n, tokens, 2 * width)
    q, (k, v) = random(n, rows, width), packed.chunk(2, dim=-1)  # keys and values have a row's stride of both
    got = attention(q, k, v, heads)
    check(got, attend(q, k, v, heads), attend(q.double(), k.double(), v.double(), heads))
    assert torch.equal(got, attention(q, k, v, heads)), "two runs differ"


@needs_hopper
@pytest.mark.parametrize("sizes", [(77, 12, 768), (150, 2, 96), (1, 1, 64)], ids=str)
def test_causal_attention(sizes: tuple[int, int, int]) -> None:
    tokens, heads, width = sizes
    q, k, v = random(2, tokens, 3 * width, scale=2.0).chunk(3, dim=-1)
    mask = causal_mask(q)
    true = attend(q.double(), k.double(), v.double(), heads, mask.double())
    check(attention(q, k, v, heads, causal=True), attend(q, k, v, heads, mask), true)


@needs_hopper
def test_attention_to_distant_keys() -> None:
    """The softmax of large scores neither overflows nor depends on which part of the keys has the largest."""
    q, k, v = (random(2, 300, 64, scale=scale) for scale in (8.0, 8.0, 1.0))
    check(attention(q, k, v, 1), attend(q, k, v, 1), attend(q.double(), k.double(), v.double(), 1))


@pytest.mark.parametrize("rows", [35, 1536])
def test_attention_of_a_wide_head(rows: int) -> None:
    q, k, v = (random(2, rows, 512, scale=scale) for scale in (4.0, 1.0, 1.0))
    got = products_attention(q, k, v)
    check(got, attend(q, k, v, 1), attend(q.double(), k.double(), v.double(), 1))


PRODUCTS = [
    (rows, depth, columns)
    for rows in (1, 24, 48, 70, 192, 768, 3072)
    for depth, columns in ((32, 40), (96, 96), (320, 320), (1280, 1280), (5120, 1280))
]


@pytest.mark.parametrize("sizes", PRODUCTS, ids=str)
def test_linear_add(sizes: tuple[int, int, int]) -> None:
    rows, depth, columns = sizes
    inputs = random(rows, depth), random(columns, depth, scale=depth**-0.5), random(columns), random(rows, columns)

    def plain(inputs: Sequence[Tensor]) -> Tensor:
        x, weight, bias, residual = inputs
        return F.linear(x, weight, bias) + residual

    got = linear_add(*inputs)
    check(got, plain(inputs), plain([tensor.double() for tensor in inputs]))
    assert torch.equal(got, linear_add(*inputs)), "two runs differ"


@pytest.mark.parametrize("sizes", PRODUCTS, ids=str)
def test_geglu(sizes: tuple[int, int, int]) -> None:
    rows, depth, columns = sizes
    inputs = random(rows, depth), random(2 * columns, depth, scale=depth**-0.5), random(2 * columns)

    def plain(inputs: Sequence[Tensor]) -> Tensor:
        value, gate = F.linear(*inputs).chunk(2, dim=-1)
        return value * F.gelu(gate)

    check(geglu(*inputs), plain(inputs), plain([tensor.double() for tensor in inputs]))


def transformer(
    width: int, heads: int, size: tuple[int, int], n: int = 2
) -> tuple[nn.Module, Tensor, tuple[Tensor, Tensor], Tensor, Tensor]:
    """Return a transformer, a map, keys and values, and the result in half and in double precision."""
    torch.manual_seed(0)
    half = channels_last(SpatialTransformer(width, 96, heads, 16).cuda().half().requires_grad_(False))
    x = random(n, width, *size).contiguous(memory_format=torch.channels_last)
    text = random(n, 77, width), random(n, 77, width)
    true = deepcopy(half).double()(x.double(), (text[0].double(), text[1].double()))
    return half, x, text, half(x, text), true


@needs_hopper
@pytest.mark.parametrize(("width", "heads", "size"), [(640, 8, (16, 24)), (96, 2, (4, 6)), (320, 8, (32, 48))])
def test_a_compiled_transformer(width: int, heads: int, size: tuple[int, int]) -> None:
    half, x, text, expected, true = transformer(width, heads, size)
    fuse_attention(half)
    fuse_products(half)
    assert isinstance(half.proj_out, FusedProjectOut)
    assert torch.equal(half(x, text), expected), "the eager layer has changed"
    compiled = torch.compile(half, fullgraph=True)
    check(compiled(x, text), expected, true)
    with torch.profiler.profile() as profile:
        compiled(x, text)
    names = [event.name for event in profile.events()]
    products = names.count("_product") + names.count("canny2image_product")
    assert products == 3, "GEGLU, the feed-forward's end and the projection"
    attentions = [names.count(f"canny2image_{name}") for name in ("attention", "long_attention")]
    assert attentions == ([1, 1] if size == (32, 48) else [2, 0])


@needs_hopper
@pytest.mark.parametrize(
    # others: products by the kernels for many rows; long: attentions by the kernel for many queries
    ("width", "heads", "size", "n", "others", "long"),
    [
        (320, 8, (32, 48), 2, (1, 0), 1),
        (640, 8, (16, 24), 2, (1, 0), 0),
        (1280, 8, (8, 12), 2, (0, 0), 0),
        (1280, 8, (4, 6), 2, (0, 0), 0),
        (32, 2, (32, 48), 2, (0, 0), 0),
        (96, 2, (4, 6), 2, (0, 0), 0),
        (320, 8, (32, 48), 16, (7, 1), 2),
        (640, 8, (16, 24), 16, (8, 0), 2),
        (640, 8, (16, 24), 4, (2, 0), 2),
        (1280, 8, (8, 12), 16, (2, 0), 0),
    ],
)
def test_a_compiled_folded_transformer(
    width: int, heads: int, size: tuple[int, int], n: int, others: tuple[int, int], long: int
) -> None:
    half, x, text, expected, true = transformer(width, heads, size, n)
    fuse_attention(half)
    fuse_products(half)
    fold_norms(half)
    assert torch.equal(half(x, text), expected), "the eager layer has changed"
    torch.compiler.reset()  # which refuses to compile the same function again and again
    compiled = torch.compile(half, fullgraph=True)
    check(compiled(x, text), expected, true)
    with torch.profiler.profile() as profile:
        compiled(x, text)
        torch.cuda.synchronize()
    names = [event.name for event in profile.events() if event.device_type.name == "CUDA"]
    counts = [names.count(f"canny2image_product{kind}") for kind in ("", "_of_large_tiles", "_of_many_rows")]
    assert counts == [8 - sum(others), *others]
    assert [names.count(f"canny2image_{kind}attention") for kind in ("", "long_")] == [2 - long, long]
    assert not any("layer_norm" in name for name in names)


def test_another_gpu_keeps_pytorchs_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plugins.transformer.SHARED", 2**20)
    monkeypatch.setattr("plugins.short_attention.op.runs_on", lambda device: False)
    layer = SpatialTransformer(32, 32, 2, 16).cuda()
    fuse_attention(layer)
    fuse_products(layer)
    assert type(layer.proj_out) is ProjectOut
    assert layer.block.attn1.attend is attend
