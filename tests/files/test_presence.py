from pathlib import Path

import pytest

from queued_storage.files import presence

pytestmark = pytest.mark.one_database


def test_size_at(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    assert presence.size_at(str(path)) is None
    path.write_bytes(b"hello")
    assert presence.size_at(str(path)) == 5
    assert presence.size_at(str(path / "b.txt")) is None


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "a" * 300])
def test_size_of_a_name_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    assert presence.size_at(str(tmp_path / name)) is None
