"""The engine builder, run as `python -m build`."""

import commands  # noqa: F401
