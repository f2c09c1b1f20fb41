"""Which tests a lane of CI runs: all but those of ``one_lane`` that another lane runs.

``QUEUED_STORAGE_TEST_LANES`` has the databases of all lanes. Without it, all tests run.
"""

from collections.abc import Sequence
from zlib import crc32

import pytest

FOR_EACH = "mariadb"  # the lane that runs no tests of ``one_database``


def is_for(item: pytest.Item, lane: str, lanes: Sequence[str]) -> bool:
    """Return whether one of these lanes runs a test."""
    marks = {mark.name for mark in item.iter_markers()}
    # A test that is skipped on some database would not run at all if that is its lane's.
    if "one_lane" not in marks or "skipif" in marks:
        return True
    if "one_database" in marks:
        lanes = [each for each in lanes if each != FOR_EACH]
    # Parameters may be others with another database or version.
    function = item.nodeid.partition("[")[0]
    return lane == lanes[crc32(function.encode()) % len(lanes)]


def keep_those_for(lane: str, lanes: Sequence[str], items: list[pytest.Item]) -> list[pytest.Item]:
    """Remove the tests of other lanes from `items`, and return them."""
    others = [item for item in items if not is_for(item, lane, lanes)]
    items[:] = [item for item in items if is_for(item, lane, lanes)]
    return others
