class BuildError(RuntimeError):
    """An engine cannot be compiled here, or computes something else than its module."""
