"""GroupNorm with SiLU as one CUDA kernel: a torch op (`op.py`), the layer on it, a TensorRT plugin.

`kernel.cu` is compiled when it is needed (`compile.py`).
"""
