"""Sentences in English that count something, or say how long it takes."""


def counted(count: int, one: str, many: str) -> str:
    """``one`` if ``count`` is 1, otherwise ``many``; ``{}`` in it stands for the number.

    The number has thousands separators. Messages that are translated use ``ngettext()`` instead.
    """
    return (one if count == 1 else many).replace("{}", f"{count:,}")


def about(seconds: float) -> str:
    """A duration in the unit that suits it, rounded down: "20 seconds", "12 minutes"."""
    for size, one, many in _UNITS:
        if seconds >= 2 * size:
            return counted(int(seconds / size), one, many)
    return counted(int(seconds), "{} second", "{} seconds")


_UNITS = (
    (86400, "{} day", "{} days"),
    (3600, "{} hour", "{} hours"),
    (60, "{} minute", "{} minutes"),
)
