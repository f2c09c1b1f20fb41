from types import SimpleNamespace
from typing import Any

import pytest

from queued_storage.transfers.notified import Notified

pytestmark = pytest.mark.one_database


def test_high_priorities_are_taken_first() -> None:
    notified = Notified()
    for pk, priority in ((1, 1), (2, 0), (3, 1), (4, -1), (2, 0)):
        notified.add(pk, priority)
    assert (len(notified), notified.take(0)) == (4, [])
    assert (notified.take(2), notified.take(9), len(notified)) == ([4, 2], [1, 3], 0)


def test_returned_ids_are_first_again() -> None:
    notified = Notified()
    notified.add(1, 0)
    notified.add(2, 1)
    rows: Any = [SimpleNamespace(pk=pk, priority=pk % 2) for pk in (4, 6, 7)]
    notified.return_all(rows)
    assert notified.take(9) == [4, 6, 1, 7, 2]


def test_an_id_is_discarded_once() -> None:
    notified = Notified()
    notified.add(1, 0)
    assert (notified.discard(1), notified.discard(1)) == (True, False)
    notified.add(2, 1)
    notified.clear()
    assert not notified
