"""Exported stages in onnxruntime agree with the PyTorch stages, and their weights have the checkpoint's names."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from build.export import OPSET, ExportError, export
from build.forms import spell_out
from build.measurement import check
from build.verify import Trial, prepare
from cldm.checkpoint_choice import find_checkpoint
from cldm.fast import make_fast
from cldm.model import ControlLDM
from cldm.pipeline import Pipeline, Shape
from cldm.request import Request
from ldm.config import load_architecture
from ldm.norm import GroupNorm
from plans.plan import make_plan
from plugins.group_norm.launch import choose_launch
from runtime.eager import EagerEngine
from runtime.streams import Streams
from scoring.pictures import DRAWN_BIRDS, find_pictures
from tests.conftest import ATTENTIONS, SIZES, Exported, exported_model

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="exports ONNX files and runs them: ./preprocess.sh dev installs it")

import onnx  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402

from build.onnx_engine import OnnxEngine  # noqa: E402

CPU = torch.device("cpu")
TINY = (64, 64, 1)


@pytest.fixture(params=list(SIZES), ids=str)
def trial(request: pytest.FixtureRequest, exported: Exported) -> tuple[Trial, dict[str, Path]]:
    return exported(request.param)


def dtype_of(modules: Trial) -> torch.dtype:
    return modules.stages["hint"].spec.outputs[0].dtype


def test_every_stage_computes_what_its_module_does(trial: tuple[Trial, dict[str, Path]]) -> None:
    modules, paths = trial
    assert paths.keys() == modules.stages.keys()
    check([modules.measure(OnnxEngine(modules.stages[name].spec, path)) for name, path in paths.items()])


def test_attention_is_two_products_and_a_softmax(trial: tuple[Trial, dict[str, Path]]) -> None:
    modules, paths = trial
    for name, path in paths.items():
        model = onnx.load(path, load_external_data=False)
        kinds = [node.op_type for node in model.graph.node]
        assert (kinds.count("Attention"), kinds.count("Softmax")) == (0, ATTENTIONS[dtype_of(modules)][name])
        assert [one.version for one in model.opset_import if one.domain == ""] == [OPSET]


def test_in_half_precision_the_vae_has_its_softmax_in_float32(exported: Exported) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load(exported(torch.float16)[1]["vae"], load_external_data=False))
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    (softmax,) = (node for node in model.graph.node if node.op_type == "Softmax")
    assert types[softmax.input[0]] == types[softmax.output[0]] == onnx.TensorProto.FLOAT


def weight_types(graph: onnx.GraphProto, *op_types: str) -> list[set[int]]:
    """Return the set of weight types of each node of these types."""
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    return [{types[name] for name in node.input[1:]} for node in graph.node if node.op_type in op_types]


def test_norms_have_weights_of_the_type_that_they_compute_in(
    trial: tuple[Trial, dict[str, Path]], tmp_path: Path
) -> None:
    """TensorRT's GroupNorm layer always computes statistics in float32; LayerNorm is decomposed, so it is float32."""
    modules, paths = trial
    half = dtype_of(modules) == torch.float16
    groups, layers = [], []
    for path in paths.values():
        graph = onnx.load(path, load_external_data=False).graph
        groups += weight_types(graph, "GroupNormalization")
        layers += weight_types(graph, "LayerNormalization")
    kind = onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT
    used = [
        m
        for name, m in exported_model(dtype_of(modules), tmp_path).named_modules()
        if "first_stage_model.encoder" not in name
    ]
    assert groups == [{kind}] * sum(isinstance(module, GroupNorm) for module in used)
    assert layers == [{onnx.TensorProto.FLOAT}] * sum(isinstance(module, torch.nn.LayerNorm) for module in used)
    assert len(groups) > (100 if half else 30)
    assert len(layers) > (60 if half else 15)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> ControlLDM:
    return exported_model(torch.float32, tmp_path_factory.mktemp("architecture"))


@pytest.fixture(scope="module")
def with_plugins(tiny_model: ControlLDM, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    model = make_fast(deepcopy(tiny_model), torch.float16)
    folder = tmp_path_factory.mktemp("plugins")
    return {spec.name: path for spec, path in export(model, TINY, folder, plugins=True, names=["encoder", "vae"])}


def test_with_plugins_every_group_norm_is_a_call(with_plugins: dict[str, Path], tiny_model: ControlLDM) -> None:
    found: list[tuple[Any, ...]] = []
    for path in with_plugins.values():
        model = onnx.load(path, load_external_data=False)
        calls = [node for node in model.graph.node if node.op_type == "group_norm"]
        assert {node.domain for node in calls} == {"canny2image"}
        half = [{onnx.TensorProto.FLOAT16}] * len(calls)
        assert weight_types(model.graph, "group_norm", "GroupNormalization") == half
        assert [function.name for function in model.functions] == ["group_norm"]
        shapes = {value.name: value.type.tensor_type.shape.dim for value in model.graph.value_info}
        for node in calls:
            values = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
            assert values.pop("plugin_namespace") == b"canny2image"
            groups, eps, silu = (values.pop(name) for name in ("groups", "eps", "silu"))
            assert not values
            found.append((node.input[1], node.input[2], groups, pytest.approx(eps), bool(silu)))
            n, channels, h, w = (size.dim_value for size in shapes[node.output[0]])
            for channels_last in (True, False):
                assert choose_launch(n, channels, h * w, groups, eps, bool(silu), channels_last, clusters=True), (
                    "the kernel does not support this shape"
                )
    parts = ("input_blocks", "middle_block", "first_stage_model.decoder")
    expected = [
        (f"{name}.weight", f"{name}.bias", module.num_groups, module.eps, module.silu)
        for name, module in tiny_model.named_modules()
        if isinstance(module, GroupNorm) and "control_model" not in name and any(part in name for part in parts)
    ]
    assert sorted(expected) == sorted(found, key=lambda call: call[0])
    assert len(found) > 30


def test_calls_have_attributes_of_the_plugins_types(with_plugins: dict[str, Path]) -> None:
    """TensorRT's parser converts an INT to an array of one int32, and a FLOAT to an array of one float32."""
    graph = onnx.load(with_plugins["vae"], load_external_data=False).graph
    node = next(node for node in graph.node if node.op_type == "group_norm")
    kinds = {attribute.name: attribute.type for attribute in node.attribute}
    integer, floating, text = (getattr(onnx.AttributeProto, name) for name in ("INT", "FLOAT", "STRING"))
    assert kinds == {"groups": integer, "eps": floating, "silu": integer, "plugin_namespace": text}


def test_the_function_of_a_call_computes_what_the_module_does(
    with_plugins: dict[str, Path], tiny_model: ControlLDM
) -> None:
    modules = prepare(deepcopy(tiny_model), torch.float16, TINY, CPU)
    check([modules.measure(OnnxEngine(modules.stages[name].spec, path)) for name, path in with_plugins.items()])


def test_weights_bear_the_names_of_the_checkpoint(trial: tuple[Trial, dict[str, Path]], tmp_path: Path) -> None:
    values = exported_model(dtype_of(trial[0]), tmp_path).state_dict()
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


def test_whole_picture_by_onnxruntime(exported: Exported, tiny_model: ControlLDM) -> None:
    model, tokenizer = make_fast(deepcopy(tiny_model), torch.float32), find_checkpoint("random:0").load_tokenizer()
    shape = Shape(*SIZES[torch.float32], 20, make_plan("19,14,8,2", 20))
    bird = find_pictures(DRAWN_BIRDS)["bird_1"]
    asked = Request.contest(bird, prompt="a red bird", seed=1)
    (expected,) = Pipeline(model, shape, EagerEngine, Streams(CPU))([asked], tokenizer)
    _, files = exported(torch.float32)
    by_onnx = Pipeline(model, shape, lambda spec, module: OnnxEngine(spec, files[spec.name]), Streams(CPU))
    (picture,) = by_onnx([asked], tokenizer)
    assert (np.abs(picture.astype(int) - expected) <= 1).mean() > 0.99
    assert expected.std() > 20


def test_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_fast(ControlLDM(load_architecture("small")), torch.float32)
    monkeypatch.setattr("build.export.spell_out", lambda model, plugins: spell_out(model.half(), plugins))
    with pytest.raises(ExportError, match=r"stage control cannot be exported to ONNX: Input type \(float\)"):
        list(export(model, TINY, tmp_path, names=["control"]))
