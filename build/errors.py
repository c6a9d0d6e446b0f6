class BuildError(RuntimeError):
    """An engine cannot be built as requested, or its relative error exceeds the bound."""
