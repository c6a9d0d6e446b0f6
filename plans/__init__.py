"""Plans: which DDIM steps call the network. Also how plans are chosen and searched for."""
