"""The inputs of the stage Text for prompts in either syntax."""

from collections.abc import Sequence

from torch import Tensor

from cldm.prompt_syntax import PromptSyntax
from ldm.chunks import encode_chunks
from ldm.tokenizer import Tokenizer


def text_inputs(tokenizer: Tokenizer, prompts: Sequence[str], syntax: PromptSyntax) -> dict[str, Tensor]:
    """Return tokens int32 [prompts * chunks, 77] and, if they have weights, token_weights float32 of the same shape.

    Raises ValueError for a weight that is too large.
    """
    if not syntax.weighted:
        return {"tokens": tokenizer(prompts)}
    tokens, weights = encode_chunks(tokenizer, prompts, syntax.chunks)
    return {"tokens": tokens, "token_weights": weights}
