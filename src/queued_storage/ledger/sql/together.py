"""Has one thread do at once what several ask for at the same time."""

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

PATIENCE = 1.0  # seconds: much longer than a call takes

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class _Question(Generic[Item, Answer]):
    def __init__(self, item: Item) -> None:
        self.item = item
        self.answers: list[Answer] = []  # one, once there is one
        self.error: Exception | None = None

    @property
    def is_answered(self) -> bool:
        return bool(self.answers or self.error)


class Together(Generic[Item, Answer]):
    """Answers each thread's question, those that came meanwhile by one call of ``answer_all``.

    Nobody waits for others to come: who is alone is answered at once. An error is that of all
    whose questions were in the call; what is to end a thread, such as an engine's time limit, is
    that thread's alone.
    """

    def __init__(self, answer_all: Callable[[Sequence[Item]], Sequence[Answer]]) -> None:
        self._answer_all = answer_all
        self._reset()
        os.register_at_fork(after_in_child=self._reset)  # another thread may have had the lock

    def _reset(self) -> None:
        self._turn = threading.Lock()
        self._waiting: list[_Question[Item, Answer]] = []

    def ask(self, item: Item) -> Answer | None:
        """None if whoever has the turn hangs, or was ended: the question may be answered yet, but
        too late."""
        question: _Question[Item, Answer] = _Question(item)
        self._waiting.append(question)
        if self._turn.acquire(timeout=PATIENCE):
            try:
                if not question.is_answered:
                    self._answer_those_waiting()
            finally:
                self._turn.release()
        if question.error:
            raise question.error
        if not question.answers:
            with contextlib.suppress(ValueError):
                self._waiting.remove(question)
            return None
        return question.answers[0]

    def _answer_those_waiting(self) -> None:
        questions, self._waiting = self._waiting, []
        try:
            answers = self._answer_all([question.item for question in questions])
        except Exception as error:
            for question in questions:
                question.error = error
        else:
            for question, answer in zip(questions, answers, strict=True):
                question.answers.append(answer)
