"""The table of kernels: kinds by name, and the work of our ops by the shapes of their arguments; others' tables."""

import pytest

from benchmarks import attention
from benchmarks.hopper_table import PICTURES
from benchmarks.kernels import OTHERS, Cost, kind, table, work
from benchmarks.products import LAYERS, Layer, arguments


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ("canny2image_convolution", "our 3x3 convolutions"),
        ("canny2image_product", "our products"),
        ("canny2image_product_of_large_tiles", "our products"),
        ("canny2image_product_of_many_rows", "our products"),
        ("canny2image_group_norm", "our GroupNorm"),
        ("canny2image_update", OTHERS),
        ("_attention", "attention"),
        ("canny2image_long_attention", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16", "attention"),
        ("sm90_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc", "other convolutions"),
        ("_convolution", "other convolutions"),
        ("void cutlass__5x_cudnn::Kernel<cutlass_tensorop>", "other convolutions"),
        ("nvjet_sm90_hsh_80x64_64x11_2x4_h_bz_bias_TNN", "other products"),
        ("triton_poi_fused_add_cat_0", "torch.compile's kernels"),
        ("Memset (Unknown)", OTHERS),
    ],
)
def test_kinds(kernel: str, expected: str) -> None:
    assert kind(kernel) == expected


@pytest.mark.parametrize(
    ("op", "shapes", "flops", "values"),
    [
        ("convolution", [[2, 64, 4, 6], [128, 64, 3, 3], [128], []], 2 * 48 * 128 * 576, 48 * 192 + 128 * 576),
        ("product", [[48, 64], [128, 64], [], [], []], 2 * 48 * 64 * 128, 48 * 192 + 128 * 64),
        ("norm_product", [[48, 64], [48, 1, 2], [128, 64], [128], [128], []], 2 * 48 * 64 * 128, 48 * 192 + 128 * 64),
        ("norm_geglu", [[48, 64], [48, 1, 2], [256, 64], [256], [256], []], 2 * 48 * 64 * 256, 48 * 192 + 256 * 64),
        ("group_norm", [[2, 64, 4, 6], [64], [64], [], [], [], []], 0, 0),
    ],
)
def test_work(op: str, shapes: list[list[int]], flops: int, values: int) -> None:
    assert work(f"canny2image::{op}", shapes) == (flops, 2 * values)


def test_table() -> None:
    cost = Cost("product", flops=10**9, bytes=10**7)
    cost.add(5.0, 20)
    cost.add(7.0, 20)
    assert cost.cells() == ["product", "0.24", "40", "6.0", "167", "1.67"]
    assert table(["a", "b"], [Cost("x", us=3000.0, calls=1)])[1:] == ["|---|---|", "| x | 3.00 | 1 | 3000.0 |"]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_both_products_have_results_of_the_same_shape(layer: Layer) -> None:
    ours, plain = arguments(layer, 6, 64, "meta")
    result = layer.ours(*ours)
    (first, *_) = result if isinstance(result, (tuple, list)) else (result,)
    assert first.shape == layer.plain(*plain).shape == (6, 64 * layer.columns)


def test_each_attention_has_a_kernel() -> None:
    names = {}
    for pictures in PICTURES:
        for queries, width in attention.LEVELS:
            for keys in (queries, attention.TEXT):
                q, k, v = attention.arguments(2 * pictures, queries, keys, width, "meta")
                assert (q.shape, k.shape) == ((2 * pictures, queries, width), v.shape)
                chosen, other = attention.kernels(q, k)
                assert chosen is not other
                names[pictures, queries, keys] = chosen.function.__name__
    assert names[1, 1536, 1536] == names[8, 384, 77] == "long_attention"
    assert names[1, 1536, 77] == names[8, 96, 96] == "attention"
