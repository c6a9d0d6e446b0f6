"""Chooses the kernel of an attention under torch.compile on a Hopper GPU.

The libraries' attention is made for long sequences: for 24 to 384 tokens cuDNN takes 7 to 10 us on an H200, and clears
memory first. Our kernel for few tokens takes 3 to 7 us. For 1536 tokens and a head of 40, cuDNN takes 33 us and our
kernel for many queries 21; in batches it is also faster for few tokens.
"""

import torch
from torch import Tensor

from ldm.attention import attend
from plugins.compiling import compiles_half
from plugins.long_attention.op import is_faster, long_attention
from plugins.short_attention.compile import MOST_TOKENS
from plugins.short_attention.op import attention

# Width of a head up to which it is padded to 16. At 1536 tokens and a width of 8, this kernel takes 21 us on an H200
# and cuDNN 32, as long as at 40. Widths of 9 to 16 were not measured.
NARROW = 16
LIBRARIES_WIDTH = 256  # of a head; for wider ones PyTorch has only its slowest kernel: 127 us in the VAE on an H200
MOST_SCORES = 4096**2  # per picture; they take 64 MiB


def fused_attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Compute the same as `ldm.attention.attend`."""
    if compiles_half(q) and is_faster(q, k, heads):
        return long_attention(q, k, v, heads)
    return short_attend(q, k, v, heads)


def short_attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Compute the same as `ldm.attention.attend`, without the kernel for many queries."""
    if not compiles_half(q):
        return attend(q, k, v, heads)
    if q.shape[2] > heads * LIBRARIES_WIDTH:
        few = heads == 1 and q.shape[1] * k.shape[1] <= MOST_SCORES
        return products_attention(q, k, v) if few else attend(q, k, v, heads)
    few = k.shape[1] <= MOST_TOKENS or q.shape[2] <= heads * NARROW
    return attention(q, k, v, heads) if few else attend(q, k, v, heads)


def products_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute the attention of one head as two products with the softmax between them. Scores are float32."""
    scores = torch.bmm(q, k.transpose(1, 2), out_dtype=torch.float32) * q.shape[2] ** -0.5
    return torch.bmm(scores.softmax(dim=-1).to(v.dtype), v)
