"""The update of the latent after an evaluation, as one kernel."""
