"""Judges pictures as the contest does: perceptual distance from a base picture, latency, and a score from both."""
