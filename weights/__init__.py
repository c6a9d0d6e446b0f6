"""Files of weights that people have: how they are read, named and joined, and what is merged into them."""
