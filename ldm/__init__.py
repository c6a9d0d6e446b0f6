"""Stable Diffusion 1.5 in plain PyTorch: UNet, VAE, CLIP text encoder, noise schedule, weights."""
