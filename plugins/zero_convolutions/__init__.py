"""ControlNet's zero convolutions as one kernel, written in Triton."""
