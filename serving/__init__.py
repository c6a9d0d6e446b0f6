"""The page (Gradio), the server (Ray Serve) and batches (Ray Data) around the `hackathon` class."""

import commands  # noqa: F401
