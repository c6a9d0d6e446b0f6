"""Extra tokens: the vectors of textual-inversion embeddings behind the text encoder's own vocabulary."""

import torch
from torch import Tensor, nn

from ldm.clip import CLIPText, Embeddings


class ExtendedEmbeddings(Embeddings):
    """Embeddings with more rows. They are not part of the checkpoint, so its names and shapes stay."""

    extra: Tensor

    def forward(self, tokens: Tensor) -> Tensor:
        vocabulary = self.token_embedding.num_embeddings
        own = self.token_embedding(tokens.clamp(max=vocabulary - 1))
        extra = nn.functional.embedding((tokens - vocabulary).clamp(min=0), self.extra)
        chosen = torch.where((tokens < vocabulary)[..., None], own, extra.to(own.dtype))
        return chosen + self.position_embedding.weight


def add_tokens(text: CLIPText, vectors: Tensor) -> None:
    """Let tokens from the size of the vocabulary on read `vectors` [n, width], in place."""
    weight = text.embeddings.token_embedding.weight
    text.embeddings.__class__ = ExtendedEmbeddings
    text.embeddings.register_buffer("extra", vectors.to(weight.device), persistent=False)
