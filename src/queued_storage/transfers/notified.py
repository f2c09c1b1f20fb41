"""The ids that a process was notified of, in the order in which their files are claimed."""

from collections import defaultdict
from collections.abc import Iterable
from itertools import chain, islice

from ..ledger.models import QueuedFile


class Notified:
    """Ids of files of one storage that are not claimed yet, by their priority.

    They are lost with the process. The ledger has the order for all processes.
    """

    def __init__(self) -> None:
        self._ids: defaultdict[int, dict[int, None]] = defaultdict(dict)

    def __len__(self) -> int:
        return sum(map(len, self._ids.values()))

    def add(self, pk: int, priority: int) -> None:
        self._ids[priority].setdefault(pk)

    def return_all(self, rows: Iterable[QueuedFile]) -> None:
        """Put the ids of these files before the others of their priority."""
        returned: defaultdict[int, dict[int, None]] = defaultdict(dict)
        for row in rows:
            returned[row.priority][row.pk] = None
        for priority, ids in returned.items():
            self._ids[priority] = ids | self._ids[priority]

    def take(self, count: int) -> list[int]:
        """Take out the first ids."""
        in_order = chain.from_iterable(self._ids[priority] for priority in sorted(self._ids))
        taken = list(islice(in_order, count))
        for pk in taken:
            self.discard(pk)
        return taken

    def discard(self, pk: int) -> bool:
        """Take out one id; return whether it was there."""
        return any(ids.pop(pk, self) is None for ids in self._ids.values())

    def clear(self) -> None:
        self._ids.clear()
