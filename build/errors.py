class BuildError(RuntimeError):
    """An engine cannot be built as requested, or its relative error exceeds the bound."""


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, which may be long."""
    return (str(error).strip() or "no reason given").splitlines()[0]
