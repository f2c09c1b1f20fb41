"""What another host answers."""

from typing import Any

import pytest
from pytest_django import Settings

from queued_storage.exceptions import FileElsewhere
from queued_storage.models import QueuedFile
from queued_storage.serving import peers

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]


class Answer:
    """A response without an end."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.count = 0

    def __enter__(self) -> "Answer":
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def read(self, size: int) -> bytes:
        piece = self.pieces.pop(0) if self.pieces else b"x" * size
        self.count += len(piece[:size])
        return piece[:size]


@pytest.fixture
def answer(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Answer:
    urls = {"one": "http://one.example/queued/"}
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"HOST_URLS": urls}
    answer = Answer()
    monkeypatch.setattr(peers, "urlopen", lambda url, timeout: answer)
    return answer


def row(size: int) -> QueuedFile:
    return QueuedFile(pk=1, alias="default", name="a.txt", host="one", size=size)


@pytest.mark.parametrize("size", [0, 1, 5, 300_000])
def test_an_answer_is_read_within_the_size(answer: Answer, size: int) -> None:
    with pytest.raises(FileElsewhere, match="differs"):
        peers.fetch(row(size), "rb")
    assert answer.count <= size + 1


def test_a_whole_answer(answer: Answer) -> None:
    answer.pieces = [b"by", b"tes", b""]
    with peers.fetch(row(5), "rb") as opened:
        assert opened.read() == b"bytes"


def test_an_error_does_not_repeat_the_ticket(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    def fail(url: str, timeout: float) -> Any:
        raise OSError(f"cannot open {url}?ticket=hunter2")

    monkeypatch.setattr(peers, "urlopen", fail)
    with pytest.raises(FileElsewhere) as caught:
        peers.fetch(row(5), "rb")
    assert "hunter2" not in str(caught.value)
