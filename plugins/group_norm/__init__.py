"""GroupNorm with SiLU as one CUDA kernel: a torch op (`op.py`) and a TensorRT plugin (`tensorrt_plugin.py`).

`kernel.cu` is compiled when it is needed (`compile.py`). It has not run on a GPU yet: its PTX has been assembled for
sm_80 and sm_90, and its indexing and its merging of statistics have been followed in numpy.
"""
