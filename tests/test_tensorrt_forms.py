"""Operators that the real builder of TensorRT for RTX fuses or rejects: the reasons for the form of our ONNX files."""

# ruff: noqa: E402

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip(
    "tensorrt_rtx", reason="./preprocess.sh tensorrt-rtx installs it on Linux x86-64", exc_type=ImportError
)
onnx = pytest.importorskip("onnx", reason="./preprocess.sh dev installs it")

from onnx import TensorProto, helper

from build.compile import compile_engine
from build.layers import Report
from runtime.spec import EngineSpec, TensorSpec
from runtime.tensorrt_calls import TensorRTError
from tests.rtx_builder import SM89


def attention(kind: int, width: int, operator: bool, masked: bool = False, **attributes: Any) -> Any:
    """Return a model of one attention, two heads of this width over 64 tokens: ONNX's operator or our exported form."""
    shape = [1, 2, 64, width]
    values = [helper.make_tensor_value_info(name, kind, shape) for name in "qkv"]
    values += [helper.make_tensor_value_info("m", kind, [64, 64])] if masked else []
    names = [value.name for value in values]
    if operator:
        nodes = [helper.make_node("Attention", names, ["a"], name="attention", **attributes)]
    else:
        nodes = [
            helper.make_node("Mul", ["q", "scale"], ["scaled"]),
            helper.make_node("Transpose", ["k"], ["turned"], perm=[0, 1, 3, 2]),
            helper.make_node("MatMul", ["scaled", "turned"], ["logits"]),
            *([helper.make_node("Add", ["logits", "m"], ["masked"])] if masked else []),
            helper.make_node("Softmax", ["masked" if masked else "logits"], ["weights"], axis=-1),
            helper.make_node("MatMul", ["weights", "v"], ["a"]),
        ]
    scale = helper.make_tensor("scale", kind, [], [width**-0.5])
    output = helper.make_tensor_value_info("a", kind, shape)
    graph = helper.make_graph(nodes, "attention", values, [output], [] if operator else [scale])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23 if operator else 21)], ir_version=10)


def compiled(model: Any, folder: Path) -> Report:
    """Build the model, with any tensor names, and return the build's report."""
    path = folder / "model.onnx"
    onnx.save(model, path)
    dtypes = {TensorProto.FLOAT: torch.float32, TensorProto.FLOAT16: torch.float16}
    inputs, outputs = (
        tuple(
            TensorSpec(
                value.name,
                tuple(size.dim_value for size in value.type.tensor_type.shape.dim),
                dtypes[value.type.tensor_type.elem_type],
            )
            for value in values
        )
        for values in (model.graph.input, model.graph.output)
    )
    return compile_engine(path, EngineSpec("one", inputs, outputs), SM89)[1]


UNFUSABLE = {
    "a head of 512": (TensorProto.FLOAT16, 512, False),
    "float32": (TensorProto.FLOAT, 64, False),
    "float32 with a mask": (TensorProto.FLOAT, 64, True),
}


@pytest.mark.parametrize(("kind", "width", "masked"), UNFUSABLE.values(), ids=UNFUSABLE)
def test_attention_without_a_fused_kernel(kind: int, width: int, masked: bool, tmp_path: Path) -> None:
    """The builder rejects the operator but builds two matrix products and a softmax, which we therefore export."""
    with pytest.raises(
        TensorRTError, match=r"one: .*model\.onnx cannot be built .*not supported by a dedicated kernel"
    ):
        compiled(attention(kind, width, operator=True, masked=masked), tmp_path)
    report = compiled(attention(kind, width, operator=False, masked=masked), tmp_path)
    assert (report.attentions("fused"), report.attentions("unfused")) == (0, 1)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("width", [40, 64, 80, 160])
def test_attention_with_a_fused_kernel_is_fused_in_either_form(width: int, masked: bool, tmp_path: Path) -> None:
    for operator in (True, False):
        report = compiled(attention(TensorProto.FLOAT16, width, operator, masked), tmp_path)
        assert (report.attentions("fused"), report.attentions("unfused")) == (1, 0)


def test_softmax_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        TensorRTError, match=r"cannot be parsed: node 0 'attention': .*[Ss]oftmax precision is not supp"
    ):
        compiled(attention(TensorProto.FLOAT16, 64, operator=True, softmax_precision=1), tmp_path)


def test_groups_that_do_not_divide_the_channels_are_refused(tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT16, [1, 8, 4, 4]) for name in "xy")
    scale, bias = (helper.make_tensor_value_info(name, TensorProto.FLOAT16, [8]) for name in ("scale", "bias"))
    node = helper.make_node("GroupNormalization", ["x", "scale", "bias"], ["y"], name="norm", num_groups=3)
    graph = helper.make_graph([node], "norm", [x, scale, bias], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    with pytest.raises(TensorRTError, match=r"node 0 'norm': .*group count must divide input channel count"):
        compiled(model, tmp_path)
    model.graph.node[0].attribute[0].i = 4
    assert compiled(model, tmp_path).layers


def test_an_unknown_operator_is_refused(tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("group_norm", ["x"], ["y"], domain="canny2image")], "g", [x], [y])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("canny2image", 1)]
    with pytest.raises(TensorRTError, match=r"cannot be parsed: node 0 .*[Pp]lugin"):
        compiled(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path)
