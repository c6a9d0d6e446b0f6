"""What makes the plain model fast, a file for each idea, and each beside a test against the plain model.

guidance_batch   the prompt and the negative prompt in one batch, what does not depend on them computed once
hint_once        ControlNet's hint computed once for all steps
text_once        keys and values of all cross-attentions computed once for all steps
time_table       what the timestep adds in every ResBlock computed once for all steps, the bias of a convolution in it
packed_qkv       one matrix product for query, key and value of self-attention

Tricks that know nothing of this model lie in runtime, plugins and plans; README lists all.
"""
