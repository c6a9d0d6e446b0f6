"""3x3 convolutions for Hopper GPUs as one kernel, which also adds the bias, and a residual or a 1x1 convolution.

Strides are 1 or 2, and input channels multiples of 8; `padded.py` fills up few channels.

The same kernel computes the phases of upsamplings (`plugins/phase_upsampling.py`).

`kernel.py` is the kernel in Gluon, Triton's lower-level language; `tiles.py` chooses how programs share the work;
`compile.py` says what the kernel is compiled for; `op.py` makes it a torch op, and `layer.py` a layer.
"""
