"""GroupNorm with SiLU as one CUDA kernel: a torch op (`op.py`), a layer (`layer.py`) and a TensorRT plugin.

`compile.py` compiles `kernel.cu` on demand.
"""
