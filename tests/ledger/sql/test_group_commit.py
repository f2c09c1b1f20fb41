"""Requests of several threads in one call."""

import os
import threading
from collections.abc import Sequence

import pytest

from queued_storage.ledger.sql.group_commit import GroupCommit
from tests.support.waiting import until


class Calls:
    """Answer with the square; the first call waits for permission to continue."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.has_begun = threading.Event()
        self.may_continue = threading.Event()

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.seen.append(list(numbers))
        if len(self.seen) == 1:
            self.has_begun.set()
            assert self.may_continue.wait(60)
        if 13 in numbers:
            raise ZeroDivisionError("thirteen")
        return [number**2 for number in numbers]


def submit_during_a_call(calls: Calls, numbers: Sequence[int]) -> dict[int, object]:
    """The results of submitting 1, and the others during the call for it."""
    commit: GroupCommit[int, int] = GroupCommit(calls)
    found: dict[int, object] = {}

    def submit(number: int) -> None:
        try:
            found[number] = commit.submit(number)
        except ZeroDivisionError as error:
            found[number] = str(error)
        except Limit:
            found[number] = "ended"

    first = threading.Thread(target=submit, args=(1,))
    first.start()
    assert calls.has_begun.wait(60)
    others = [threading.Thread(target=submit, args=(number,)) for number in numbers]
    for thread in others:
        thread.start()
    until(lambda: len(commit._waiting) == len(numbers))
    calls.may_continue.set()
    for thread in (first, *others):
        thread.join(60)
        assert not thread.is_alive()
    return found


def test_a_single_request_is_handled_at_once() -> None:
    calls = Calls()
    calls.may_continue.set()
    commit: GroupCommit[int, int] = GroupCommit(calls)
    assert [commit.submit(2), commit.submit(3)] == [4, 9]
    assert calls.seen == [[2], [3]]


def test_requests_during_a_call_share_the_next() -> None:
    calls = Calls()
    assert submit_during_a_call(calls, [2, 3, 4]) == {1: 1, 2: 4, 3: 9, 4: 16}
    assert [sorted(numbers) for numbers in calls.seen] == [[1], [2, 3, 4]]


def test_an_error_concerns_its_call_only() -> None:
    calls = Calls()
    found = submit_during_a_call(calls, [2, 13])
    assert found == {1: 1, 2: "thirteen", 13: "thirteen"}


class Limit(BaseException):
    """As an engine raises it in a thread that exceeds a time limit."""


def test_a_time_limit_ends_one_thread_only() -> None:
    class Limited(Calls):
        def __call__(self, numbers: Sequence[int]) -> list[int]:
            answers = super().__call__(numbers)
            if len(self.seen) == 2:
                raise Limit
            return answers

    found = submit_during_a_call(Limited(), [2, 3, 4])
    assert found.pop(1) == 1
    assert sorted(map(str, found.values())) == ["None", "None", "ended"]


def test_no_thread_waits_for_a_hanging_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queued_storage.ledger.sql.group_commit.PATIENCE", 0.01)
    calls = Calls()
    commit: GroupCommit[int, int] = GroupCommit(calls)
    first = threading.Thread(target=commit.submit, args=(1,))
    first.start()
    assert calls.has_begun.wait(60)
    assert commit.submit(2) is None
    calls.may_continue.set()
    first.join(60)
    assert commit.submit(3) == 9
    assert calls.seen == [[1], [3]]


def test_a_missing_answer_is_an_error() -> None:
    commit: GroupCommit[int, int] = GroupCommit(lambda numbers: [])
    with pytest.raises(ValueError, match="shorter"):
        commit.submit(1)


# Python 3.12 warns about the fork, rightly: the child is what this tests.
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_fork_during_a_call_blocks_nothing() -> None:
    calls = Calls()
    commit: GroupCommit[int, int] = GroupCommit(calls)
    first = threading.Thread(target=commit.submit, args=(1,))
    first.start()
    assert calls.has_begun.wait(60)
    child = os.fork()
    if not child:
        os._exit(commit.submit(3) or 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    calls.may_continue.set()
    first.join(60)
    assert not first.is_alive()
