"""Stable Diffusion with ControlNet: the joined model, its stages, their engines and the pipeline."""
