"""Models without values."""

import subprocess
import sys

import torch

from cldm.model import ControlLDM
from ldm.config import load_architecture
from ldm.shapes_only import shapes_only
from tests.test_inductor import ROOT

PROCESS = """
import sys
import torch
from cldm.fast import make_fast
from cldm.model import ControlLDM
from cldm.new_model import random_model
from ldm.config import load_architecture
from ldm.shapes_only import shapes_only

SLOW = {"torch._dynamo", "sympy"}
before = SLOW & sys.modules.keys()
with shapes_only():
    make_fast(ControlLDM(load_architecture("small")), torch.float16)
random_model(load_architecture("small"), 0)
assert SLOW & sys.modules.keys() == before, "PyTorch's compiler was imported, or SymPy"
"""


def test_names_shapes_and_types() -> None:
    architecture = load_architecture("small")
    with shapes_only():
        model = ControlLDM(architecture)
    with torch.device("meta"):
        expected = ControlLDM(architecture).state_dict()
    found = model.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        other = expected[name]
        assert (tensor.device, tensor.shape, tensor.dtype) == (other.device, other.shape, other.dtype)


def test_it_does_not_import_the_compiler() -> None:
    subprocess.run([sys.executable, "-c", PROCESS], cwd=ROOT, check=True)


def test_afterwards_layers_are_initialized_again() -> None:
    with shapes_only():
        torch.nn.Linear(2, 2)
    assert torch.nn.Linear(2, 2).weight.any()
