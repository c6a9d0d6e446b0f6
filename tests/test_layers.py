"""Parsing of an engine's layers from the builder's log and from the inspector's JSON."""

import json
from dataclasses import replace
from typing import Any

import pytest

from build.layers import BuildLog, Report, layers_of_json, make_layer, table

TENSOR = "{ Name: %s, Dimensions: [2,8,4,6], Strides: [192,1,48,8], StrideOrder: [3,0,2,1], Datatype: %s, Format: %s }"
HALF = TENSOR % ("LayerType", "Half", "(NHWC) Channel major format")
FLOAT = TENSOR % ("y_myl0", "Float", "(Linear) Row major linear format")
LOG = f"""Layers:
Name: __myl_SiluGnor_myl0_0, LayerType: kgen, Inputs: [ {HALF}], Constants: [ {FLOAT}, {FLOAT}], Outputs: [ {HALF}, \
{FLOAT}], TacticName: __myl_SiluGnor_0x3, StreamId: 0, Metadata: [ONNX Layer: node_group_norm][ONNX Layer: node_silu]
Name: _gemm_mha_v2_myl0_1, LayerType: kgen, Inputs: [ {HALF}], Constants: [], Outputs: [ {HALF}], TacticName: \
_gemm_mha_v2_0x2, StreamId: 0, Metadata: [ONNX Layer: node_Softmax_7]
Name: entry^bb^signal^1_myl0_2, LayerType: signal, Inputs: [], Outputs: [], TacticName: , StreamId: 0, Metadata:\x20
Name: __myl_CastGnor_myl0_3, LayerType: kgen, Inputs: [ {HALF}], Constants: [], Outputs: [ {FLOAT}], TacticName: t

I/O Tensors:
 Name: x, IOMode: Input, DataType: Half
"""


def test_layers_in_the_builders_log() -> None:
    log = BuildLog()
    for message in ("Layer: {ForeignNode[x]} Scratch Memory: 7 bytes", "Max Scratch Memory: 8196096 bytes", LOG, "end"):
        log(message)
    assert log.scratch_bytes == 8196096
    norm, attention, signal, other = log.layers
    assert (norm.name, norm.kind, norm.norm) == ("__myl_SiluGnor_myl0_0", "kgen", "fused")
    assert norm.formats == ("Half NHWC", "Float Linear")
    assert (attention.name, attention.attention, attention.norm) == ("_gemm_mha_v2_myl0_1", "fused", "none")
    assert (signal.kind, signal.formats) == ("signal", ())
    assert (other.norm, other.formats) == ("unfused", ("Float Linear",))


def test_layers_in_the_inspectors_json() -> None:
    """The fields equal those of the log, except that the format's key depends on TensorRT's version."""
    outputs = [{"Name": "y", "Format/Datatype": "Half"}, {"Name": "z", "Datatype": "Half", "Format": "Row major"}]
    text = json.dumps({"Layers": [{"Name": "_gemm_mha_v2_myl0_1", "LayerType": "kgen", "Outputs": outputs}]})
    (layer,) = layers_of_json(text)
    assert (layer.attention, layer.formats) == ("fused", ("Half", "Half Row major"))
    for wrong in ("", "{}", '{"Layers": ["names", "only"]}', '{"Layers": 3}', "[1]"):
        with pytest.raises(ValueError, match=r"no detailed layers|is not a JSON object|is not valid JSON"):
            layers_of_json(wrong)


@pytest.mark.parametrize(
    ("information", "attention"),
    [
        ({"Name": "_gemm_mha_v2_myl0_4", "LayerType": "kgen", "TacticName": "_gemm_mha_v2_0x1"}, "fused"),
        ({"Name": "__mye8037_gemm_mha_v2", "LayerType": "kgen"}, "fused"),
        ({"Name": "a", "LayerType": "kgen", "TacticName": "_gemv_mha_v1_0x2"}, "fused"),
        ({"Name": "/encoder/mha/output/MatMul_myl0_70", "LayerType": "gemm", "TacticName": "sm80_xmma_gemm"}, "none"),
        ({"Name": "__myl_MaxSubExpSumDivMul_myl0_3", "LayerType": "kgen"}, "unfused"),
        ({"Name": "__myl_ReshAddMaxrSubExpSumDivMul_myl0_2", "LayerType": "kgen"}, "unfused"),
        ({"Name": "a", "LayerType": "kgen", "Metadata": "[ONNX Layer: node_Softmax_7]"}, "unfused"),
    ],
)
def test_attentions_as_tensorrt_names_them(information: dict[str, Any], attention: str) -> None:
    """The names come from listings of TensorRT 9 and 10, and of TensorRT for RTX 1.7."""
    assert make_layer(information).attention == attention


def test_the_table_has_a_line_for_each_engine() -> None:
    log = BuildLog()
    log(LOG)
    report = Report("control", 1234.5, 3 << 20, 5 << 19, log.layers)
    lines = table([report, replace(report, engine="vae")]).splitlines()
    assert len(lines) == 3
    assert lines[1].split() == [*"control 1234.5 3.0 2.5 4 1 0 1 Half NHWC".split(), "2,", *"Float Linear 2".split()]
    assert lines[0].index("output formats") == lines[1].index("Half") == lines[2].index("Half")
