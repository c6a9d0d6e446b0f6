"""Plans define which DDIM steps call the network. This package also chooses plans and searches for them."""
