"""One thread that does at once what several ask for."""

import os
import threading
from collections.abc import Sequence

import pytest

from queued_storage.ledger.sql.together import Together
from tests.support.waiting import until


class Calls:
    """Answers with the square; the first call waits until it is let go on."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.has_begun = threading.Event()
        self.goes_on = threading.Event()

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.seen.append(list(numbers))
        if len(self.seen) == 1:
            self.has_begun.set()
            assert self.goes_on.wait(60)
        if 13 in numbers:
            raise ZeroDivisionError("thirteen")
        return [number**2 for number in numbers]


def ask_behind_one(calls: Calls, numbers: Sequence[int]) -> dict[int, object]:
    """What comes of asking for 1, and for the others while that is answered."""
    together: Together[int, int] = Together(calls)
    found: dict[int, object] = {}

    def ask(number: int) -> None:
        try:
            found[number] = together.ask(number)
        except ZeroDivisionError as error:
            found[number] = str(error)
        except Limit:
            found[number] = "ended"

    first = threading.Thread(target=ask, args=(1,))
    first.start()
    assert calls.has_begun.wait(60)
    others = [threading.Thread(target=ask, args=(number,)) for number in numbers]
    for thread in others:
        thread.start()
    until(lambda: len(together._waiting) == len(numbers))
    calls.goes_on.set()
    for thread in (first, *others):
        thread.join(60)
        assert not thread.is_alive()
    return found


def test_who_is_alone_is_answered_at_once() -> None:
    calls = Calls()
    calls.goes_on.set()
    together: Together[int, int] = Together(calls)
    assert [together.ask(2), together.ask(3)] == [4, 9]
    assert calls.seen == [[2], [3]]


def test_those_who_come_meanwhile_are_answered_by_one_call() -> None:
    calls = Calls()
    assert ask_behind_one(calls, [2, 3, 4]) == {1: 1, 2: 4, 3: 9, 4: 16}
    assert [sorted(numbers) for numbers in calls.seen] == [[1], [2, 3, 4]]


def test_an_error_is_that_of_all_of_the_call_and_of_no_other() -> None:
    calls = Calls()
    found = ask_behind_one(calls, [2, 13])
    assert found == {1: 1, 2: "thirteen", 13: "thirteen"}


class Limit(BaseException):
    """As an engine raises it in a thread whose time is over."""


def test_what_ends_one_thread_is_no_error_of_the_others() -> None:
    class Limited(Calls):
        def __call__(self, numbers: Sequence[int]) -> list[int]:
            answers = super().__call__(numbers)
            if len(self.seen) == 2:
                raise Limit
            return answers

    found = ask_behind_one(Limited(), [2, 3, 4])
    assert found.pop(1) == 1
    assert sorted(map(str, found.values())) == ["None", "None", "ended"]


def test_nobody_waits_for_one_who_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queued_storage.ledger.sql.together.PATIENCE", 0.01)
    calls = Calls()
    together: Together[int, int] = Together(calls)
    first = threading.Thread(target=together.ask, args=(1,))
    first.start()
    assert calls.has_begun.wait(60)
    assert together.ask(2) is None
    calls.goes_on.set()
    first.join(60)
    assert together.ask(3) == 9
    assert calls.seen == [[1], [3]]


def test_answers_that_are_missing_are_an_error() -> None:
    together: Together[int, int] = Together(lambda numbers: [])
    with pytest.raises(ValueError, match="shorter"):
        together.ask(1)


# So says Python 3.12, rightly: the child is what is tested.
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_process_does_not_wait_for_a_thread_of_its_parent() -> None:
    calls = Calls()
    together: Together[int, int] = Together(calls)
    first = threading.Thread(target=together.ask, args=(1,))
    first.start()
    assert calls.has_begun.wait(60)
    child = os.fork()
    if not child:
        os._exit(together.ask(3) or 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    calls.goes_on.set()
    first.join(60)
    assert not first.is_alive()
