"""Durations and sizes that are written as text, such as "1h" and "20G"."""

import math
import re

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_BYTES = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_duration(text: str) -> float:
    """Seconds, from a text such as ``90s``, ``15m``, ``2h``, ``30d`` or ``8w``; else ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip().lower(), re.ASCII)
    if not match:
        raise ValueError(
            f"{text!r} is not a valid duration; use for example 90s, 15m, 2h, 30d or 8w"
        )
    return _finite(float(match[1]) * _SECONDS[match[2]], f"{text!r} is too long")


def parse_size(text: str) -> int:
    """Bytes, from a text such as ``500``, ``20M`` or ``1.5G``; else ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", text.strip().lower(), re.ASCII)
    if not match:
        raise ValueError(f"{text!r} is not a valid size; use for example 500, 20M or 1.5G")
    return round(_finite(float(match[1]) * _BYTES[match[2]], f"{text!r} is too large"))


def seconds_in(value: str | float) -> float:
    """Seconds, which are given as a number or as a text."""
    return parse_duration(value) if isinstance(value, str) else float(value)


def bytes_in(value: str | float) -> float:
    """Bytes, which are given as a number or as a text."""
    return parse_size(value) if isinstance(value, str) else float(value)


def _finite(number: float, problem: str) -> float:
    if math.isinf(number):
        raise ValueError(problem)
    return number
