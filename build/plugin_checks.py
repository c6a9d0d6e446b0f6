"""Checks that the GroupNorm plugin registers, that an engine uses it, and that the engine loads without it."""

import re
import subprocess
import sys
import tempfile

import torch

from build.builder import register_plugin
from build.case import Case, NotTried, Wrong
from runtime.sources import ROOT

PLUGIN = re.compile("plugin|group_?norm", re.I)  # matches the kind or name of a plugin layer
# Code for a separate process: reads a serialized engine without registering the plugin.
READ = """
import sys, torch
from runtime.tensorrt_calls import logger_of
from runtime.tensorrt_library import library_that_reads

serialized = open(sys.argv[1], "rb").read()
torch.zeros(1, device=sys.argv[2])
trt = library_that_reads("decoder", serialized).load()
logger = logger_of(trt)
engine = trt.Runtime(logger).deserialize_cuda_engine(serialized)
sys.exit(None if engine else f"no engine: {logger.heard()}")
"""


def check_plugin(case: Case) -> str:
    if case.dtype != torch.float16 or not case.target.plugins:
        raise NotTried("only half-precision engines built with --plugins use the plugin")
    register_plugin(case.builder)
    case.plugins = True
    return "registered, its kernel compiles"


def check_engine_with_plugin(case: Case) -> str:
    """Verify that the decoder's engine contains the plugin's code: it loads in a process that did not register it."""
    if not case.plugins:
        raise NotTried("the plugin is not registered")
    calls = sum(bool(PLUGIN.search(f"{layer.kind} {layer.name}")) for layer in case.listed("decoder").layers)
    with tempfile.NamedTemporaryFile(suffix=".engine") as file:
        file.write(case.engines["decoder"])
        file.flush()
        command = [sys.executable, "-c", READ, file.name, str(case.device)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise Wrong(f"another process cannot read the engine: {done.stderr[-500:]}")
    if not calls:
        raise Wrong("another process reads the decoder's engine, but none of its layers is named plugin or group_norm")
    return f"{calls} layers of the decoder's engine call the plugin, and another process reads the engine"
