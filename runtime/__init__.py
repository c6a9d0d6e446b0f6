"""Tensors, engines and streams. Knows nothing of diffusion."""
