"""Which files go first: the numbers that rows have, and the names for them."""

from typing import Any

NORMAL = 0
NAMES = {"high": -1, "normal": NORMAL, "low": 1}

# All values of the column, in their order. The index of due rows has a range for each of them, so a
# query that gives none reads all rows of an alias. Others belong to processes of a newer version.
PRIORITIES = (-1, 0, 1)
OVERDUE = PRIORITIES[0] - 1  # the turn of a file that has waited for ``MAX_WAIT``

EXPECTED = (
    f"{', '.join(map(repr, NAMES))}, or an integer from {PRIORITIES[0]}, which goes first, to "
    f"{PRIORITIES[-1]}"
)


def priority_of(value: Any) -> int:
    """Return the number of a priority, which is one already, or a name; else ``ValueError``."""
    number = NAMES.get(value) if isinstance(value, str) else value
    if not isinstance(number, int) or isinstance(number, bool) or number not in PRIORITIES:
        raise ValueError(f"priority must be {EXPECTED}, not {value!r}.")
    return number


def name_of(priority: int) -> str:
    """Return the name of a priority, or its number if it has none."""
    names = (name for name, number in NAMES.items() if number == priority)
    return next(names, str(priority))
