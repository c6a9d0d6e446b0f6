"""Benchmarks of this project and of what a user might choose instead."""
