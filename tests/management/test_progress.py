from io import StringIO
from typing import Any

import pytest
from django.core.management.base import OutputWrapper

from queued_storage.management.progress import Progress
from queued_storage.management.terminal import Terminal
from queued_storage.operations.passes import Step

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]


class Screen(StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def progress(out: StringIO, errors: StringIO | None = None, **options: Any) -> tuple[Any, Clock]:
    clock = Clock()
    wrapped = Terminal(OutputWrapper(errors or StringIO()))
    return Progress(Terminal(OutputWrapper(out)), wrapped, clock=clock, **options), clock


@pytest.mark.one_database
def test_lines() -> None:
    out = StringIO()
    bar, clock = progress(out, files=100, bytes=10_000)
    for _file in range(25):
        clock.now += 1
        bar(Step(1, 100))
    assert out.getvalue().splitlines() == [
        "10 of 100 files, 1,000 bytes, 1 files/s, 1:30 left",
        "20 of 100 files, 2.0 KB, 1 files/s, 1:20 left",
    ]


@pytest.mark.one_database
def test_remaining_time_by_bytes() -> None:
    bar, clock = progress(StringIO(), files=2, bytes=4096, by_bytes=True)
    clock.now = 10
    bar(Step(1, 1024))
    assert bar.text() == "1 of 2 files, 1.0 KB, 0 files/s, 102 bytes/s, 0:30 left"


@pytest.mark.one_database
def test_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    out, errors = Screen(), StringIO()
    bar, clock = progress(out, errors, files=4)
    with bar:
        clock.now = 1
        bar(Step(1, 0))
        clock.now = 1.01  # too early for an update
        bar(Step(1, 0))
        clock.now = 2
        bar(Step(1, 0, "no such bucket", "a.txt"))
    first, cleared, second, end = out.getvalue().split("\r\x1b[K")[1:]
    assert first.startswith("[######..................] 1 of 4 files, 1 files/s, 0:03 l")
    assert len(first) == 59
    assert second.startswith("[##################......] 3 of 4 files")
    assert (cleared, end) == ("", "")
    assert errors.getvalue() == "a.txt: no such bucket\n"
    assert (bar.failed, bar.files) == (1, 3)
