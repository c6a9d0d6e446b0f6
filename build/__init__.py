"""The engine builder, run as `python -m build`."""
