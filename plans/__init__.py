"""Which steps of DDIM call the network, and how such plans are chosen and found."""
