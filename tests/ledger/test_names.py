"""Names of files: one spelling each, and none that cannot be kept."""

from pathlib import PurePosixPath
from typing import Any

import pytest

from queued_storage.exceptions import InvalidName
from queued_storage.ledger.names import COMPONENT_MAX_BYTES, StoredName

pytestmark = pytest.mark.one_database


@pytest.mark.parametrize("name", ["docs/a.txt", "docs\\a.txt", "./docs//a.txt"])
def test_a_name_has_one_spelling(name: str) -> None:
    for stored in (StoredName.of(name), StoredName.new(name, on_file_system=True)):
        assert stored == StoredName("docs/a.txt", "")
        assert stored.can_be_recorded
    assert StoredName.of(PurePosixPath(name)) == StoredName.of(name)


@pytest.mark.parametrize("name", ["", ".", "/a.txt", "../a.txt", "a\0b", "\ud800", "x" * 5000])
def test_names_that_cannot_be_recorded(name: str) -> None:
    stored = StoredName.of(name)
    assert stored.problem
    assert not stored.can_be_recorded
    with pytest.raises(InvalidName, match="cannot be the name of a stored file"):
        StoredName.new(name, on_file_system=False)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (None, "not a string"),
        (b"a.txt", "not a string"),
        (5, "not a string"),
        ("docs/", "name of a directory"),
        ("docs/../a.txt", "leads out of the storage"),
        ("docs/.queued-a.txt", "reserved for unfinished files and markers; choose another name"),
    ],
)
def test_new_names_that_are_refused(name: Any, problem: str) -> None:
    with pytest.raises(InvalidName, match=problem):
        StoredName.new(name, on_file_system=False)


def test_a_file_system_limits_each_part() -> None:
    name = f"docs/{'é' * (COMPONENT_MAX_BYTES // 2 + 1)}"
    assert StoredName.new(name, on_file_system=False).text == name
    with pytest.raises(InvalidName, match="one part has 256 bytes"):
        StoredName.new(name, on_file_system=True)
