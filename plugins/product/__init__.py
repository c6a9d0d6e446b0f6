"""Matrix products for Hopper GPUs as one kernel, which also adds the bias and a residual, or applies GEGLU.

`kernel.py` is the kernel in Gluon; `tiles.py` chooses how programs share the work; `op.py` makes it a torch op.
"""
