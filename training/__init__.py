"""How the small model is made: pictures with captions, and the training on them."""
