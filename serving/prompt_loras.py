"""LoRAs in prompts, `<lora:name:weight>`, as the WebUI writes them."""

import math
import re

from reading import shown

TAG = re.compile(r"<\s*(lora|lyco|hypernet)\s*:([^<>]*)>", re.IGNORECASE)


def split_loras(prompt: str, argument: str = "prompt") -> tuple[str, list[tuple[str, float]]]:
    """Return a prompt without its tags, and the names and strengths of the LoRAs.

    argument: the name of the prompt, for messages. Raise ValueError for a tag that cannot be honoured.
    """
    loras = [_lora(tag, argument) for tag in TAG.finditer(prompt)]
    return TAG.sub("", prompt).strip() if loras else prompt, loras


def refuse_loras(prompt: str, argument: str) -> None:
    """Raise ValueError if a prompt has tags; LoRAs change the whole picture, so they stand in the prompt only."""
    if tag := TAG.search(prompt):
        raise ValueError(f"{argument}: got {shown(tag[0])}, expected no such tag here: put it into the prompt")


def _lora(tag: re.Match[str], argument: str) -> tuple[str, float]:
    kind, (name, *strengths) = tag[1].lower(), [part.strip() for part in tag[2].split(":")]
    expected = "expected <lora:name:strength> with one strength, such as <lora:style:0.8>"
    if kind != "lora" or not name or len(strengths) > 1:
        raise ValueError(f"{argument}: got {shown(tag[0])}, {expected}")
    try:
        strength = float(strengths[0]) if strengths else 1.0
    except ValueError:
        strength = math.nan
    if not math.isfinite(strength):
        raise ValueError(f"{argument}: got {shown(tag[0])}, {expected}")
    return name, strength
