"""What our kernels in Gluon, Triton's lower-level language, share. They run on Hopper GPUs only.

`cluster.py` adds the parts of sums inside kernels, and `pipeline.py` loads tiles; `compile.py` compiles kernels,
`launch.py` launches them, and `arguments.py` checks what they get.
"""
