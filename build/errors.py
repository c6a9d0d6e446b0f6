class BuildError(RuntimeError):
    """An engine cannot be built as requested, or its results differ too much from its module's."""
