"""Trains the small model, and draws the pictures with captions that it is trained on."""

import commands  # noqa: F401
