"""How sizes and counts are written for people."""


def byte_size(number: int) -> str:
    """Decimal units, as disks and networks count: "142 MB"."""
    return _scaled(number, ("B", "kB", "MB", "GB", "TB"), " ")


def count(number: int) -> str:
    """ "135M" parameters."""
    return _scaled(number, ("", "k", "M", "B", "T"), "")


def _scaled(number: int, units: tuple[str, ...], space: str) -> str:
    value, place = float(number), 0
    while value >= 999.5 and place < len(units) - 1:
        value, place = value / 1000, place + 1
    digits = 1 if place and value < 9.95 else 0
    return f"{value:.{digits}f}{space}{units[place]}"
