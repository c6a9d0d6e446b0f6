"""Short scripts to start from: `.venv/bin/python -m examples.NAME` in the project's folder."""

import commands  # noqa: F401
