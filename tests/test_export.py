"""The exported stages, run by onnxruntime, are the stages; and their weights bear the checkpoint's names.

In half precision their GroupNorms are calls of a plugin, of which onnxruntime runs the function in the file.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import build.export
import build.verify
from build.export import ExportError, exact_norms, export
from build.verify import Trial, check, prepare
from cldm.checkpoint import SMALL_MODEL, find_checkpoint
from cldm.model import ControlLDM
from cldm.pipeline import Pipeline, Shape, to_precision
from cldm.plan import make_plan
from cldm.request import Request
from cldm.stages import make_stages
from ldm.config import load_architecture
from ldm.norm import GroupNorm
from plugins.group_norm.compile import plan
from runtime.eager import EagerEngine
from runtime.lanes import Lanes
from scoring.pictures import find_pictures

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="the exporter and what runs its files: ./preprocess.sh dev")

import onnx  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402

from build.onnx_engine import OnnxEngine  # noqa: E402

CPU = torch.device("cpu")
TINY = (64, 64, 1)
SIZES = {torch.float32: (256, 384, 1), torch.float16: TINY}  # half precision is slow on the CPU
NORMS = {torch.float32: ("LayerNormalization", "GroupNormalization"), torch.float16: ("LayerNormalization",)}
ATTENTIONS = {"text": 3, "control": 14, "encoder": 14, "decoder": 18, "vae": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[torch.dtype], tuple[Trial, dict[str, Path]]]:
    """The trained model in a precision, and its files; made once for each."""

    @cache
    def make(dtype: torch.dtype) -> tuple[Trial, dict[str, Path]]:
        model, size = find_checkpoint(str(SMALL_MODEL)).load_model(), SIZES[dtype]
        trial = prepare(model, dtype, size, CPU)
        return trial, {spec.name: path for spec, path in export(model, size, tmp_path_factory.mktemp("onnx"))}

    return make


@pytest.fixture(params=list(SIZES), ids=str)
def trial(
    request: pytest.FixtureRequest, made: Callable[[torch.dtype], tuple[Trial, dict[str, Path]]]
) -> tuple[Trial, dict[str, Path]]:
    return made(request.param)


def test_every_stage_computes_what_its_module_does(trial: tuple[Trial, dict[str, Path]]) -> None:
    modules, paths = trial
    assert paths.keys() == modules.stages.keys()
    check([modules.measure(OnnxEngine(modules.stages[name].spec, path)) for name, path in paths.items()])


def test_attention_is_one_operator_in_full_precision(trial: tuple[Trial, dict[str, Path]]) -> None:
    for name, path in trial[1].items():
        nodes = [node for node in onnx.load(path, load_external_data=False).graph.node if node.op_type == "Attention"]
        assert len(nodes) == ATTENTIONS.get(name, 0)
        for node in nodes:
            attributes = {attribute.name: attribute.i for attribute in node.attribute}
            assert attributes["softmax_precision"] == onnx.TensorProto.FLOAT


def weight_types(graph: onnx.GraphProto, *op_types: str) -> list[set[int]]:
    """Of each node of these types, the types of its weights."""
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    return [{types[name] for name in node.input[1:]} for node in graph.node if node.op_type in op_types]


def test_norms_compute_in_float32(made: Callable[[torch.dtype], tuple[Trial, dict[str, Path]]]) -> None:
    for dtype, norms in NORMS.items():
        found = [
            types
            for path in made(dtype)[1].values()
            for types in weight_types(onnx.load(path, load_external_data=False).graph, *norms)
        ]
        assert len(found) > 40
        assert all(types == {onnx.TensorProto.FLOAT} for types in found)


def test_in_half_precision_every_group_norm_is_a_call_of_the_plugin(
    made: Callable[[torch.dtype], tuple[Trial, dict[str, Path]]],
) -> None:
    found: list[tuple[Any, ...]] = []
    for path in made(torch.float16)[1].values():
        model = onnx.load(path, load_external_data=False)
        calls = [node for node in model.graph.node if node.op_type == "group_norm"]
        assert {node.domain for node in calls} <= {"canny2image"}
        assert weight_types(model.graph, "group_norm", "GroupNormalization") == [{onnx.TensorProto.FLOAT16}] * len(
            calls
        )
        assert [function.name for function in model.functions] == (["group_norm"] if calls else [])
        shapes = {value.name: value.type.tensor_type.shape.dim for value in model.graph.value_info}
        for node in calls:
            values = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
            assert values.pop("plugin_namespace") == b"canny2image"
            groups, eps, silu = (values.pop(name) for name in ("groups", "eps", "silu"))
            assert not values
            found.append((node.input[1], node.input[2], groups, pytest.approx(eps), bool(silu)))
            n, channels, h, w = (size.dim_value for size in shapes[node.output[0]])
            for channels_last in (True, False):
                assert plan(n, channels, h * w, groups, eps, bool(silu), channels_last, clusters=True), "the kernel can"
    expected = [
        (f"{name}.weight", f"{name}.bias", module.num_groups, module.eps, module.silu)
        for name, module in ControlLDM(load_architecture("small")).named_modules()
        if isinstance(module, GroupNorm) and "first_stage_model.encoder" not in name
    ]
    assert sorted(expected) == sorted(found, key=lambda call: call[0])
    assert len(found) > 100


def test_calls_have_attributes_of_the_plugins_types(
    made: Callable[[torch.dtype], tuple[Trial, dict[str, Path]]],
) -> None:
    """TensorRT's parser makes an array of one int32 of an INT and of one float32 of a FLOAT."""
    graph = onnx.load(made(torch.float16)[1]["vae"], load_external_data=False).graph
    node = next(node for node in graph.node if node.op_type == "group_norm")
    kinds = {attribute.name: attribute.type for attribute in node.attribute}
    integer, floating, text = (getattr(onnx.AttributeProto, name) for name in ("INT", "FLOAT", "STRING"))
    assert kinds == {"groups": integer, "eps": floating, "silu": integer, "plugin_namespace": text}


def test_weights_bear_the_names_of_the_checkpoint(trial: tuple[Trial, dict[str, Path]]) -> None:
    values = find_checkpoint(str(SMALL_MODEL)).load_model().state_dict()
    seen = set()
    for path in trial[1].values():
        for tensor in onnx.load(path).graph.initializer:
            key = tensor.name.removesuffix(".T")
            if key not in values:
                assert len(tensor.dims) < 2 or tensor.name == "triu", f"{tensor.name} {tensor.dims}"
                continue
            expected = values[key].T if tensor.name.endswith(".T") else values[key]
            stored = numpy_helper.to_array(tensor)
            assert np.array_equal(stored, expected.numpy().astype(stored.dtype)), tensor.name
            seen.add(key)
    unused = {key for key in values.keys() - seen if values[key].dim() > 1}
    assert all(
        any(
            part in key
            for part in ("first_stage_model.encoder", "quant_conv", "time_embed", "emb_layers", "position_ids")
        )
        for key in unused
    ), unused


def test_without_plugins_there_is_no_such_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for user in (build.export, build.verify):
        monkeypatch.setattr(user, "make_stages", lambda *given: {"vae": make_stages(*given)["vae"]})
    model = find_checkpoint("random:0", "small").load_model()
    modules = prepare(model, torch.float16, TINY, CPU)
    ((spec, path),) = export(model, TINY, tmp_path, plugins=False)
    found = onnx.load(path, load_external_data=False)
    assert weight_types(found.graph, "GroupNormalization") == [{onnx.TensorProto.FLOAT}] * 22
    assert {node.domain for node in found.graph.node} == {""}
    assert not found.functions
    check([modules.measure(OnnxEngine(spec, path))])


def test_an_older_opset_has_no_attention_operator(tmp_path: Path) -> None:
    model = find_checkpoint("random:0", "small").load_model()
    modules = prepare(model, torch.float32, TINY, CPU)
    path = next(path for spec, path in export(model, TINY, tmp_path, opset=21) if spec.name == "encoder")
    graph = onnx.load(path, load_external_data=False)
    assert [opset.version for opset in graph.opset_import if opset.domain == ""] == [21]
    kinds = [node.op_type for node in graph.graph.node]
    assert (kinds.count("Attention"), kinds.count("Softmax")) == (0, 14)
    check([modules.measure(OnnxEngine(modules.stages["encoder"].spec, path))])


def test_whole_picture_by_onnxruntime(made: Callable[[torch.dtype], tuple[Trial, dict[str, Path]]]) -> None:
    checkpoint = find_checkpoint(str(SMALL_MODEL))
    model, tokenizer = to_precision(checkpoint.load_model(), torch.float32), checkpoint.load_tokenizer()
    shape = Shape(*SIZES[torch.float32], 20, make_plan("19,14,8,2", 20))
    asked = Request(
        find_pictures()["bird_1"], "a red bird", "best quality", "lowres", 1, 256, 20, False, 1.0, 9.0, 1, 0.0, 100, 200
    )
    (expected,) = Pipeline(model, shape, EagerEngine, Lanes(CPU))(asked, tokenizer)
    _, files = made(torch.float32)
    by_onnx = Pipeline(model, shape, lambda spec, module: OnnxEngine(spec, files[spec.name]), Lanes(CPU))
    (picture,) = by_onnx(asked, tokenizer)
    assert (np.abs(picture.astype(int) - expected) <= 1).mean() > 0.99
    assert expected.std() > 20


def test_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = to_precision(ControlLDM(load_architecture("small")), torch.float32)
    with pytest.raises(ValueError, match="opset 17: expected 21 or 23"):
        next(export(model, TINY, tmp_path, opset=17))
    monkeypatch.setattr("build.export.exact_norms", lambda model, plugins: exact_norms(model.half(), plugins))
    with pytest.raises(ExportError, match=r"stage control cannot be written as ONNX: Input type \(float\)"):
        list(export(model, TINY, tmp_path))
