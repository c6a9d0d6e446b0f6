"""ControlNet added to Stable Diffusion: the joined model, its stages, the plan and the pipeline."""
