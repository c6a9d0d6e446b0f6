"""GroupNorm with SiLU as one CUDA kernel (`kernel.cu`), or two for large maps (`large.cu`).

`op.py` makes it a torch op, `layer.py` a layer, and `tensorrt_plugin.py` a TensorRT plugin.
"""
