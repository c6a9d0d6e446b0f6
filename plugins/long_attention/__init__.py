"""Attention of many queries as one CUDA kernel for Hopper GPUs."""
