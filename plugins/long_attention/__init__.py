"""Attention over many tokens as one CUDA kernel for Hopper GPUs."""
