"""Benchmarks of this project and of its peers, the libraries that a user might choose instead."""

import commands  # noqa: F401
