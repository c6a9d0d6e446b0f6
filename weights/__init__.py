"""Files of weights that people have."""
