"""The vocabulary of captions, their templates, and names of objects with their colours."""

TEMPLATES = ("{}", "{}", "{}", "a picture of {}", "a photo of {}", "a painting of {}", "a drawing of {}")
"""Templates of captions; a template listed several times is chosen more often."""

_WORDS = """
a an and at background balloon bird black blue boat brick brown butterfly car cat cup desert drawing field fish flower
forest front grass green grey house in mountains mushroom night of on orange painting photo picture pink purple red
sand sea sky snow sunset the tree under wall water white yellow
astronaut camera coffee coins evening face garage man moon motorcycle page rocket stars stones suit table text with
woman
"""
VOCABULARY: tuple[str, ...] = tuple(_WORDS.split())
"""All words of all captions; those used only for photographs come last."""


def named(kind: str, colour: str | None) -> str:
    """Return a noun with its article and colour: "a bird", "an orange bird"."""
    words = f"{colour} {kind}" if colour else kind
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
