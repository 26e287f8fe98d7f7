"""Numbers and durations as text."""

import math

MISSING = "–"


def format_number(value: float) -> str:
    """Format a number with about three significant digits.

    >>> [format_number(value) for value in (5120.0, 0.7412, -12.345, 0.00031, 0.0, float("nan"))]
    ['5,120', '0.741', '−12.3', '3.1e−4', '0', '–']
    """
    if not math.isfinite(value):
        return MISSING
    if value == int(value):
        text = f"{int(value):,}"
    elif abs(value) >= 100:
        text = f"{value:,.0f}"
    elif abs(value) >= 1e-3:
        text = f"{value:#.3g}"
    else:
        digits, exponent = f"{value:.1e}".split("e")
        text = f"{digits}e{int(exponent)}"
    return text.replace("-", "−")


def format_change(value: float, *, decimals: int) -> str:
    """Format a change with its sign.

    >>> format_change(0.125, decimals=2), format_change(-0.5, decimals=1), format_change(-0.001, decimals=1)
    ('+0.12', '−0.5', '±0.0')
    """
    text = f"{value:+.{decimals}f}"
    return f"±{0:.{decimals}f}" if float(text) == 0 else text.replace("-", "−")


def format_duration(seconds: float) -> str:
    """Format a duration in its two largest units.

    >>> [format_duration(value) for value in (0.42, 7.25, 59.97, 250.0, 3725.0, 93600.0)]
    ['0.4 s', '7.2 s', '1 min 0 s', '4 min 10 s', '1 h 2 min', '26 h 0 min']
    """
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    if round(seconds) < 3600:
        return f"{round(seconds) // 60} min {round(seconds) % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def count(number: int, noun: str, *, plural: str = "") -> str:
    """Format a number and its noun.

    >>> count(1, "round"), count(5120, "image"), count(0, "query", plural="queries")
    ('1 round', '5,120 images', '0 queries')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
