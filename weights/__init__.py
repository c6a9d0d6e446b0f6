"""Files of weights that people have: reading, naming, joining, and what is merged into them."""
