"""Runs engines on tensors and streams; contains nothing about diffusion."""
