"""Durations and tables as text for the terminal."""


def minutes(seconds: float | None) -> str:
    """A duration as text: 45 s, 12 min, 3 h 05 min; - for None."""
    if seconds is None:
        return "-"
    if seconds < 90:
        return f"{seconds:.0f} s"
    whole = round(seconds / 60)
    return f"{whole} min" if whole < 90 else f"{whole // 60} h {whole % 60:02d} min"


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows of cells as columns of text; the first row has the headings."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)
