"""Checks of GroupNorm's plugin: is it registered, is it in an engine, and is the engine whole without it?"""

import re
import subprocess
import sys
import tempfile

import torch

from build.builder import register_plugin
from build.case import Case, NotTried, Wrong
from runtime.sources import ROOT

PLUGIN = re.compile("plugin|group_?norm", re.I)  # in the kinds and names of layers
# In a process of its own: reads a serialized engine, and knows no plugin.
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
        raise NotTried("only engines in half precision that are built with --plugins have it")
    register_plugin(case.builder)
    case.plugins = True
    return "registered, its kernel compiles"


def check_engine_with_plugin(case: Case) -> str:
    """An engine holds the plugin's code: a process that never registered it reads the engine too."""
    if not case.plugins:
        raise NotTried("the plugin is not registered")
    calls = sum(bool(PLUGIN.search(f"{layer.kind} {layer.name}")) for layer in case.listed("decoder").layers)
    with tempfile.NamedTemporaryFile(suffix=".engine") as file:
        file.write(case.engines["decoder"])
        file.flush()
        command = [sys.executable, "-c", READ, file.name, str(case.device)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise Wrong(f"another process cannot read it: {done.stderr[-500:]}")
    if not calls:
        raise Wrong("another process reads the decoder's engine, but no layer of it is called a plugin or group_norm")
    return f"{calls} layers of the decoder's engine are calls of it, and another process reads the engine"
