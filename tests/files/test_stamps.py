from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from queued_storage.files.stamps import read_at_once

pytestmark = pytest.mark.one_database


def test_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"hello")
    assert read_at_once(str(path), 4) is None
    found_both = read_at_once(str(path), 5)
    assert found_both
    data, stamp = found_both
    assert data == b"hello"
    found = path.stat()
    assert (stamp.inode, stamp.size, stamp.modified) == (found.st_ino, 5, found.st_mtime_ns)


def test_file_that_is_shortened_meanwhile_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(100))

    class Shortened(_Slow):
        def read(self, size: int) -> bytes:
            data = super().read(size)
            path.write_bytes(b"")
            return data

    data, stamp = _read_by(Shortened, path)
    assert len(data) == 7
    assert stamp.size == 100


def test_file_that_is_read_in_pieces_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(range(100)))
    assert _read_by(_Slow, path)[0] == bytes(range(100))


class _Slow:
    """A file of a file system that returns a few bytes at a time."""

    def __init__(self, path: str) -> None:
        self._file = FileIO(path)
        self.fileno = self._file.fileno

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        data = self._file.read(min(size, 7))
        assert data is not None
        return data


def _read_by(maker: type[_Slow], path: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "queued_storage.files.stamps.open", lambda path, *args, **kw: maker(path), raising=False
        )
        return read_at_once(str(path), 100)
