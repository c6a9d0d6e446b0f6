"""Attention over few tokens, or with narrow heads, as one kernel, written in Triton."""
