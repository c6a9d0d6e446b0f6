"""Textual-inversion embeddings (Gal et al. 2022): vectors that stand for a word in prompts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.weights import CheckpointError
from weights.folders import resolve_file
from weights.kinds import FOREIGN, advice, whole
from weights.read import EMBEDDING, check_dense, read_content

VECTORS = "emb_params"  # the tensor's name in a safetensors file; PyTorch's files have one level more
MOST_VECTORS = 600  # eight chunks of 75 tokens, the longest prompt
FILES = ("learned_embeds.safetensors", "learned_embeds.bin")  # in a folder of diffusers


def read_embeddings(names: Sequence[str], width: int) -> dict[str, Tensor]:
    """Return word -> float32 [vectors, width], in the order of the files.

    The word is the file's name without suffix, or the one that a file of diffusers gives.
    Raises CheckpointError for a file that is missing, no embedding or of another width, and for a word given twice.
    """
    found: dict[str, Tensor] = {}
    for name in names:
        path = embedding_file(name)
        for word, vectors in _read(path).items():
            check_dense(word, vectors, f"embedding {path}")
            if not vectors.is_floating_point():
                raise CheckpointError(f"embedding {path} has {vectors.dtype} vectors, expected floating point")
            vectors = vectors[None] if vectors.dim() == 1 else vectors
            if vectors.dim() != 2 or vectors.shape[1] != width or not 1 <= len(vectors) <= MOST_VECTORS:
                raise CheckpointError(
                    f"embedding {path} has vectors of shape {list(vectors.shape)}, expected [vectors, {width}] with 1 "
                    f"to {MOST_VECTORS} vectors: give one for Stable Diffusion 1.5"
                )
            vectors = vectors.detach().float()
            if not vectors.isfinite().all():
                raise CheckpointError(f"embedding {path} holds NaN or infinite values: fetch it again")
            if word.lower() in found:
                raise CheckpointError(f"embedding {path} gives the word {word!r} again: rename one of the files")
            found[word.lower()] = vectors  # CLIP's tokenizer ignores case
    return found


def embedding_file(name: str) -> Path:
    """Return the path of an embedding; of a folder of diffusers, the file in it."""
    return resolve_file(name, FILES, "embedding")


def _read(path: Path) -> Mapping[str, Tensor]:
    content: Any = read_content(path, "embedding")
    if isinstance(content, dict) and isinstance(content.get(EMBEDDING), dict):
        content = {path.stem: next(iter(content[EMBEDDING].values()), None)}
    elif isinstance(content, dict) and VECTORS in content:
        content = {path.stem: content[VECTORS]}
    is_one = isinstance(content, dict) and len(content) == 1 and all(isinstance(w, str) and w.strip() for w in content)
    if not is_one or not all(isinstance(vectors, Tensor) and vectors.dim() in (1, 2) for vectors in content.values()):
        kind = whole({name: one for name, one in _named(content) if isinstance(one, Tensor)})
        raise CheckpointError(
            f"embedding {path} is {kind}: {advice(kind)}"
            if kind and kind != FOREIGN[EMBEDDING]
            else f"embedding {path} holds something else: expected emb_params, string_to_param or one word with its "
            "vectors"
        )
    return content


def _named(content: Any) -> list[tuple[str, Any]]:
    """Return the entries of a file that have names, also of one with a level state_dict."""
    inner = content.get("state_dict", content) if isinstance(content, dict) else {}
    return [(name, one) for name, one in inner.items() if isinstance(name, str)] if isinstance(inner, dict) else []


def rows(words: Mapping[str, Tensor], first: int) -> tuple[dict[str, list[int]], Tensor]:
    """Return the tokens of each word, consecutive from `first` on, and all vectors in that order."""
    tokens: dict[str, list[int]] = {}
    for word, vectors in words.items():
        tokens[word] = list(range(first, first + len(vectors)))
        first += len(vectors)
    return tokens, torch.cat(list(words.values()))
