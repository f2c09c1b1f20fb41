"""Durations and sizes on the command line: as arguments, and as they are printed."""

from argparse import ArgumentTypeError
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from django.template.defaultfilters import filesizeformat
from django.utils import timezone

from ..reporting.counts import counted
from ..runtime import quantities

MOST = 10**12  # files; databases cannot compare with numbers of any length
Number = TypeVar("Number", int, float)


def parse_duration(text: str) -> timedelta:
    """A duration such as ``90s``, ``15m``, ``2h``, ``30d`` or ``8w``."""
    seconds = _argument(quantities.parse_duration, text)
    try:
        found = timedelta(seconds=seconds)
        _ = timezone.now() - found
    except OverflowError:
        raise ArgumentTypeError(f"{text!r} is too long: it reaches back before year 1") from None
    return found


def parse_count(text: str) -> int:
    """A number of files, 0 or more."""
    if not text.isdecimal() or int(text) > MOST:
        raise ArgumentTypeError(f"{text!r} is not a number of files, such as 0 or 100")
    return int(text)


def parse_size(text: str) -> int:
    """A number of bytes such as ``500``, ``20M`` or ``1.5G``."""
    return _argument(quantities.parse_size, text)


def parse_rate(text: str) -> int:
    """A number of bytes per second, such as ``500K`` or ``10M``."""
    if not (found := parse_size(text)):
        raise ArgumentTypeError("the rate must be at least one byte per second")
    return found


def _argument(parse: Callable[[str], Number], text: str) -> Number:
    try:
        return parse(text)
    except ValueError as error:  # argparse does not show the text of this class
        raise ArgumentTypeError(str(error)) from None


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
