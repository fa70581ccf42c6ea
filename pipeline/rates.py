"""Durations and rates as text."""


def format_duration(seconds: float) -> str:
    """Format seconds: 3725 as ``1h 02m``, 62 as ``1m 02s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


def format_rate(per_second: float, unit: str) -> str:
    """Format a positive rate: 4.21 as ``4.2 images/s``, 0.2 as ``5.0 s per image``.

    Args:
        per_second: how many units a second.
        unit: their name in the plural, ending with s.
    """
    if per_second >= 1:
        return f"{per_second:.1f} {unit}/s"
    seconds = 1 / per_second
    return f"{f'{seconds:.1f} s' if seconds < 10 else format_duration(seconds)} per {unit[:-1]}"
