"""Optimizations of the plain model, one file per idea, each tested against the plain model.

guidance_batch   prompt and negative prompt in one batch, with everything independent of them computed once
hint_once        ControlNet's hint, computed once for all steps
text_once        keys and values of all cross-attentions, computed once for all steps
time_table       the time shift of every ResBlock, with its first convolution's bias, computed once for all steps
packed_qkv       one matrix product for query, key and value of self-attention

Tricks that do not depend on this model are in runtime, plugins and plans; README lists all.
"""
