"""Draws training scenes: an object of one colour in front of a background, with a caption."""
