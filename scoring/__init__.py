"""How the contest judges a picture: perceptual distance to a reference picture, latency, and the score of both."""
