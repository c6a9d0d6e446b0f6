"""Formats tables for printing."""

from collections.abc import Collection, Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> str:
    """Return the text of a table, one line per row. Columns with an index in `left` are left-aligned, others right."""
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = ["<" if index in left else ">" for index in range(len(header))]
    return "\n".join("   ".join(map("{:{}{}}".format, line, sides, widths)).rstrip() for line in lines)
