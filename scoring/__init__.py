"""How the contest judges pictures: perceptual distance from a reference picture, latency, and a score from both."""
