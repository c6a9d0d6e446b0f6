"""How a training scene is drawn: an object of one colour before a background, with its caption."""
