"""Sentences in English that count something."""


def counted(count: int, one: str, many: str) -> str:
    """``one`` if ``count`` is 1, otherwise ``many``; ``{}`` in it stands for the number.

    The number has thousands separators. Messages that are translated use ``ngettext()`` instead.
    """
    return (one if count == 1 else many).replace("{}", f"{count:,}")
