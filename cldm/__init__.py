"""ControlNet added to Stable Diffusion: the joined model, its stages, their engines and the pipeline."""
