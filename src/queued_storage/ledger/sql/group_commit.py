"""Batch the requests that several threads make at the same time into one call (group commit)."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ...runtime.forks import after_fork

PATIENCE = 1.0  # seconds: much longer than a call takes

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(eq=False, slots=True)
class _Request(Generic[Item, Answer]):
    item: Item
    answers: list[Answer] = field(default_factory=list)  # none before the call, then one
    error: Exception | None = None

    @property
    def is_done(self) -> bool:
        return bool(self.answers or self.error)


class GroupCommit(Generic[Item, Answer]):
    """Pass the requests of several threads to ``handle_all``, which returns an answer for each.

    One thread makes a call at a time. Requests that arrive during a call wait for the next one,
    which handles them all; a request that arrives between calls is handled at once.

    An exception of a call is raised in every thread whose request was in it. What isn't an
    ``Exception``, such as an engine's time limit, is raised in the calling thread alone.
    """

    def __init__(self, handle_all: Callable[[Sequence[Item]], Sequence[Answer]]) -> None:
        self._handle_all = handle_all
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        self._calling = threading.Lock()  # held during a call
        self._guard = threading.Lock()  # of the list
        self._waiting: list[_Request[Item, Answer]] = []

    def submit(self, item: Item) -> Answer | None:
        """Return the answer; None if the calling thread hangs or was ended.

        In that case it's unknown whether the request was handled.
        """
        request: _Request[Item, Answer] = _Request(item)
        with self._guard:
            self._waiting.append(request)
        if self._calling.acquire(timeout=PATIENCE):
            try:
                if not request.is_done:
                    self._handle_waiting()
            finally:
                self._calling.release()
        if request.error:
            raise request.error
        if request.answers:
            return request.answers[0]
        self._withdraw(request)
        return None

    def _handle_waiting(self) -> None:
        with self._guard:
            requests, self._waiting = self._waiting, []
        try:
            answers = self._handle_all([request.item for request in requests])
        except Exception as error:
            for request in requests:
                request.error = error
        else:
            for request, answer in zip(requests, answers, strict=True):
                request.answers.append(answer)

    def _withdraw(self, request: _Request[Item, Answer]) -> None:
        with self._guard:
            if request in self._waiting:
                self._waiting.remove(request)
