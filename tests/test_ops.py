"""Registration of our kernels as torch ops."""

import subprocess
import sys

import torch

from plugins.product.op import product
from plugins.zero_convolutions.op import zero_convolutions
from tests.test_inductor import ROOT

PROCESS = """
import sys
import torch
from plugins.group_norm.op import group_norm

x, ones = torch.rand(1, 4, 2, 2), torch.ones(4)
group_norm(x, ones, ones, 2, 1e-5, True)
assert "torch._dynamo" not in sys.modules, "PyTorch's compiler was imported"
"""


def test_a_call_does_not_import_the_compiler() -> None:
    subprocess.run([sys.executable, "-c", PROCESS], cwd=ROOT, check=True)


def test_the_schema_says_what_an_op_writes() -> None:
    schema = zero_convolutions.overload._schema
    written = [one.name for one in schema.arguments if one.alias_info and one.alias_info.is_write]
    assert (schema.name, written, schema.returns) == ("canny2image::zero_convolutions", ["results"], [])


def test_tensors_without_values() -> None:
    """Tracing calls another function; a GPU is not needed."""
    ones = [torch.ones(2, 64, 3, 5, device="meta")]
    zero_convolutions(ones, ones, ones, ones[0], ones)
    result = product(torch.ones(3, 64, device="meta"), torch.ones(8, 64, device="meta"))
    assert (result.device.type, result.shape) == ("meta", (3, 8))
