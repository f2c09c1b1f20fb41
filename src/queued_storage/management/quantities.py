"""Durations and sizes, as text on the command line."""

import re
from argparse import ArgumentTypeError
from datetime import timedelta

from django.template.defaultfilters import filesizeformat
from django.utils import timezone

from ..reporting.counts import counted

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_BYTES = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_duration(text: str) -> timedelta:
    """A duration such as ``90s``, ``15m``, ``2h``, ``30d`` or ``8w``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip().lower())
    if not match:
        raise ArgumentTypeError(
            f"{text!r} is not a valid duration; use for example 90s, 15m, 2h, 30d or 8w"
        )
    try:
        found = timedelta(seconds=float(match[1]) * _SECONDS[match[2]])
        _ = timezone.now() - found
    except OverflowError:
        raise ArgumentTypeError(f"{text!r} is too long: it reaches back before year 1") from None
    return found


def parse_size(text: str) -> int:
    """A number of bytes such as ``500``, ``20M`` or ``1.5G``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", text.strip().lower())
    if not match:
        raise ArgumentTypeError(f"{text!r} is not a valid size; use for example 500, 20M or 1.5G")
    try:
        return round(float(match[1]) * _BYTES[match[2]])
    except OverflowError:
        raise ArgumentTypeError(f"{text!r} is too large") from None


def format_duration(seconds: float) -> str:
    """Minutes and seconds, preceded by hours if there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_size(count: int) -> str:
    """A number of bytes in the unit that suits it."""
    if count < 1024:
        return counted(count, "{} byte", "{} bytes")
    return filesizeformat(count).replace("\xa0", " ")
