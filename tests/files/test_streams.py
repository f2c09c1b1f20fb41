"""Files that measure what passes through them."""

import io
import sys
import zlib
from collections.abc import Iterator
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any

import pytest
from django.core.files import File
from django.core.files.base import ContentFile
from django.core.files.uploadedfile import InMemoryUploadedFile, SimpleUploadedFile
from hypothesis import given
from hypothesis import strategies as st

from queued_storage.files.streams import MeasuredFile, checksum_of

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]

DATA = bytes(range(256)) * 700  # more than two of Django's chunks


def crc(data: bytes) -> str:
    return f"crc32:{zlib.crc32(data):08x}"


def measured(data: bytes = DATA, **options: Any) -> MeasuredFile:
    return MeasuredFile(ContentFile(data), "a.bin", **options)


def assert_measured(file: MeasuredFile, data: bytes) -> None:
    assert (file.content.size, file.content.checksum) == (len(data), crc(data))


@pytest.mark.parametrize("library", ["isal.isal_zlib", "zlib"])
def test_the_extra_does_not_change_checksums(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if library == "zlib":
        monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
    spec: Any = find_spec("queued_storage.files.streams")
    fresh = module_from_spec(spec)
    spec.loader.exec_module(fresh)
    assert fresh._crc32().__module__ == library
    assert str(fresh.checksum_of([DATA[:1000], DATA[1000:]])) == crc(DATA)


@pytest.mark.parametrize("data", [b"", b"a", DATA])
def test_checksum_of_pieces_is_that_of_the_whole(data: bytes) -> None:
    pieces = [data[start : start + 1000] for start in range(0, len(data), 1000)]
    checksum = checksum_of(pieces)
    assert (str(checksum), checksum.size) == (crc(data), len(data))


def test_a_checksum_keeps_its_leading_zeros() -> None:
    found = next(data for number in range(10**6) if zlib.crc32(data := b"%d" % number) < 1 << 24)
    assert str(checksum_of([found])).startswith("crc32:00")
    assert len(str(checksum_of([found]))) == len("crc32:") + 8


READERS = {
    "read": lambda file: file.read(),
    "read with a size": lambda file: b"".join(iter(lambda: file.read(997), b"")),
    "chunks": lambda file: b"".join(file.chunks()),
    "small chunks": lambda file: b"".join(file.chunks(13)),
    "lines": lambda file: b"".join(file),
    "readline": lambda file: b"".join(iter(file.readline, b"")),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize("data", [b"", b"a\nb", DATA])
def test_every_way_of_reading_is_measured(reader: Any, data: bytes) -> None:
    file = measured(data)
    assert reader(file) == data
    assert_measured(file, data)


@pytest.mark.parametrize("first", READERS.values(), ids=READERS)
@pytest.mark.parametrize("then", READERS.values(), ids=READERS)
def test_bytes_that_are_read_twice_count_once(first: Any, then: Any) -> None:
    file = measured()
    first(file)
    file.seek(0)
    assert then(file) == DATA
    assert_measured(file, DATA)


def test_a_look_at_the_beginning_and_a_rewind() -> None:
    file = measured()
    assert file.read(10) == DATA[:10]
    file.seek(0)
    assert b"".join(file.chunks()) == DATA
    assert_measured(file, DATA)


def test_chunks_begin_at_the_beginning() -> None:
    file = measured()
    file.read(100)
    assert b"".join(file.chunks()) == DATA
    assert_measured(file, DATA)


def test_what_was_not_read_is_not_counted() -> None:
    file = measured()
    file.read(1000)
    assert_measured(file, DATA[:1000])


def test_seeking_to_the_end_and_back() -> None:
    file = measured()
    assert file.seek(0, io.SEEK_END) == len(DATA)
    assert file.tell() == len(DATA)
    assert file.seek(0) == 0
    assert file.read() == DATA
    assert_measured(file, DATA)


@given(st.binary(max_size=200), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 80))))
def test_any_reading_that_leaves_no_gap_is_measured(
    data: bytes, steps: list[tuple[int, int]]
) -> None:
    file, seen = measured(data), 0
    for position, size in steps:
        file.seek(min(position, seen))
        seen = max(seen, min(position, seen) + len(file.read(size)))
    assert_measured(file, data[:seen])


def test_a_source_that_can_only_be_read() -> None:
    class Source:
        def __init__(self) -> None:
            self.read = io.BytesIO(DATA).read

    file = MeasuredFile(File(Source()), "a.bin")
    assert b"".join(file.chunks()) == DATA
    assert_measured(file, DATA)


def test_a_source_that_has_only_chunks() -> None:
    class Source:
        def chunks(self, chunk_size: int | None = None) -> Iterator[bytes]:
            yield DATA[:5]
            yield DATA[5:]

    file = MeasuredFile(Source(), "a.bin")
    assert b"".join(file.chunks()) == DATA
    assert_measured(file, DATA)


def no_argument() -> Iterator[bytes]:
    yield DATA


def own_default(chunk_size: int = 5) -> Iterator[bytes]:
    for start in range(0, len(DATA), chunk_size):
        yield DATA[start : start + chunk_size]


def another_name(*, pieces: int = 1) -> Iterator[bytes]:
    yield DATA


@pytest.mark.parametrize("chunks", [no_argument, own_default, another_name])
def test_chunks_is_called_as_it_is_defined(chunks: Any) -> None:
    source = ContentFile(b"")
    source.chunks = chunks  # type: ignore[method-assign]
    file = MeasuredFile(source, "a.bin")
    assert list(file.chunks()) == list(chunks())
    assert_measured(file, DATA)


def test_a_chunk_size_is_passed_on() -> None:
    file = MeasuredFile(ContentFile(DATA), "a.bin")
    assert next(file.chunks(3)) == DATA[:3]


@pytest.mark.parametrize("text", ["", "grün\n", "a\r\nb" * 40_000])
def test_text_is_measured_as_utf8(text: str) -> None:
    file = MeasuredFile(ContentFile(text), "a.txt")
    assert b"".join(file.chunks()) == text.encode()
    assert_measured(file, text.encode())


def test_a_file_opened_in_text_mode(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("grün\nblau\n", encoding="utf-8")
    with path.open(encoding="utf-8") as opened:
        file = MeasuredFile(File(opened), "a.txt")
        assert b"".join(file.chunks()) == path.read_bytes()


def test_an_array_is_bytes_too() -> None:
    class Source:
        def chunks(self, chunk_size: int | None = None) -> Iterator[Any]:
            yield bytearray(b"ab")
            yield memoryview(b"cd")

    assert list(MeasuredFile(Source(), "a").chunks()) == [b"ab", b"cd"]


def test_closing_leaves_the_source_open() -> None:
    source = ContentFile(DATA)
    with MeasuredFile(source, "a.bin") as file:
        file.read(1)
    assert not source.closed
    assert source.read(1) == DATA[1:2]


def test_on_bytes_is_called_for_each_piece() -> None:
    seen: list[int] = []
    file = measured(on_bytes=seen.append)
    file.read(10)
    b"".join(file.chunks(50_000))
    assert seen[0] == 10
    assert sum(seen[1:]) == len(DATA)


def test_on_bytes_may_stop_the_reading() -> None:
    def stop(count: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        measured(on_bytes=stop).read()


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (SimpleUploadedFile("a", b"", "text/x-mine"), "text/x-mine"),
        (InMemoryUploadedFile(io.BytesIO(), None, "a", None, 0, None), ""),
        (ContentFile(b""), ""),
    ],
)
def test_the_content_type_of_the_source(source: Any, kind: str) -> None:
    file = MeasuredFile(source, "a")
    assert file.content_type == file.content.content_type == kind


def test_it_is_a_django_file() -> None:
    file = measured()
    assert (file.name, file.size, bool(file), file.closed) == ("a.bin", len(DATA), True, False)
