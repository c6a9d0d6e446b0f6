"""Training of the small model, and the pictures with captions that it is trained on."""
