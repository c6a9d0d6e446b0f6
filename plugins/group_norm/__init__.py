"""GroupNorm with SiLU as one CUDA kernel (`kernel.cu`), which `compile.py` compiles on demand.

`op.py` makes it a torch op, `layer.py` a layer, and `tensorrt_plugin.py` a TensorRT plugin.
"""
