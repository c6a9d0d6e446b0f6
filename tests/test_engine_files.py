"""The command that rebuilds a target's engine files."""

from dataclasses import replace

import pytest
import torch

from cldm.engine_files import Target
from cldm.prompt_syntax import PromptSyntax

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
TARGET = Target("small", 256, 384, 1, "fp16", "tensorrt")
COMMAND = (
    "python -m build --backend tensorrt --architecture small --height 256 --width 384 --samples 1 --precision fp16"
)


@pytest.mark.parametrize(
    ("target", "device", "options"),
    [
        (TARGET, CUDA, ""),
        (TARGET, CPU, " --device cpu"),
        (replace(TARGET, checkpoint="a.pth"), CUDA, " --weights a.pth"),
        (replace(TARGET, targets=(86, 120)), CPU, " --target sm86 sm120"),
        (replace(TARGET, plugins=True, refit=True), CUDA, " --plugins --refit"),
        (replace(TARGET, syntax=PromptSyntax("webui", 2)), CUDA, " --prompt-syntax webui --prompt-chunks 2"),
        (replace(TARGET, plugins=False, refit=None), CUDA, ""),
    ],
)
def test_the_command_says_what_is_not_usual(target: Target, device: torch.device, options: str) -> None:
    assert target.command(device) == COMMAND + options
