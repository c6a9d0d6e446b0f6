"""Tensors, engines and streams; independent of diffusion."""
