"""Keeps several processes alive: starts them, replaces those that end, and stops them."""

import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from queue import Empty, SimpleQueue

from .channels import Child
from .stopping import Signals

STEADY = 60.0  # seconds after which the end of a process has other causes than its start
PAUSE_MAX = 60.0  # seconds between the end of a process and the start of the next one


class What(Enum):
    """What has happened."""

    STOP = "a signal to stop"
    BEGUN = "a process works"
    ENDED = "a process has ended"


class Audience(ABC):
    """Is told what happens to the processes."""

    @abstractmethod
    def on_start(self, child: Child) -> None:
        """Called when a process was started."""

    @abstractmethod
    def on_end(self, child: Child, pause: float | None) -> None:
        """Called when a process has ended.

        It is replaced after ``pause`` seconds, or not at all if that is None.
        """

    @abstractmethod
    def on_failure(self, number: int, error: OSError, pause: float) -> None:
        """Called when the system could not start a process, which is tried again."""

    @abstractmethod
    def on_kill(self, child: Child) -> None:
        """Called when a process has to be killed, because it does not stop."""


@dataclass
class _Place:
    number: int
    child: Child | None = None
    starts_at: float | None = None
    quick_ends: int = 0  # in a row


class Processes:
    """Processes with the numbers from 1 to ``count``, all of the same command.

    The others are started when the first one has begun. If the first one cannot begin, ``run()``
    returns, so that its error is not repeated. Later, processes are replaced when they end, as long
    as ``replaces`` is true: at once, but after a growing pause if they end again and again.

    A signal lets all processes stop, and they have ``stop_wait`` seconds for it. A second signal
    kills them, as does any error here. They stop by themselves if this process is killed.
    """

    def __init__(
        self,
        count: int,
        command: Sequence[str],
        environment: Mapping[str, str],
        audience: Audience,
        *,
        replaces: bool,
        stop_wait: float,
    ) -> None:
        self._command = command
        self._environment = environment
        self._audience = audience
        self._replaces = replaces
        self._stop_wait = stop_wait
        self._events: SimpleQueue[tuple[What, Child | None]] = SimpleQueue()
        self._places = [_Place(number) for number in range(1, count + 1)]
        self._has_begun = False
        self._is_stopping = False
        self._kill_at: float | None = None
        self._worst = 0

    def run(self) -> int:
        """Return the worst exit code, when all processes have ended for good.

        Those that were replaced don't count. A signal counts as 128 plus its number, as in a shell.
        """
        with Signals(lambda: self._events.put((What.STOP, None))):
            try:
                self._start(self._places[0])
                while self._is_in_use():
                    self._handle_next()
            finally:
                for child in self._children():
                    child.kill()
                    child.close()
        return self._worst

    def _is_in_use(self) -> bool:
        return any(place.child or place.starts_at is not None for place in self._places)

    def _children(self) -> list[Child]:
        return [place.child for place in self._places if place.child]

    def _handle_next(self) -> None:
        """Wait for the next event, or for the next time at which something is to be done."""
        times = [self._kill_at, *(place.starts_at for place in self._places)]
        known = [at for at in times if at is not None]
        pause = min(known, default=math.inf) - time.monotonic()
        timeout = min(max(pause, 0), threading.TIMEOUT_MAX)
        try:
            what, child = self._events.get(timeout=timeout)
        except Empty:
            self._do_what_is_due(time.monotonic())
            return
        if what is What.STOP:
            self._stop()
        elif what is What.BEGUN:
            self._begin()
        elif child:
            self._end(child)

    def _do_what_is_due(self, now: float) -> None:
        if self._kill_at is not None and self._kill_at <= now:
            self._kill_at = None
            for child in self._children():
                self._audience.on_kill(child)
                child.kill()
        for place in self._places:
            if place.starts_at is not None and place.starts_at <= now:
                self._start(place)

    def _start(self, place: _Place) -> None:
        place.starts_at = None
        try:
            child = Child(place.number, self._command, self._environment)
        except OSError as error:  # such as too little memory, or a program that is being replaced
            if not self._has_begun:
                raise
            place.quick_ends += 1
            self._audience.on_failure(place.number, error, self._schedule(place))
            return
        place.child = child
        self._audience.on_start(child)
        child.watch(
            lambda: self._events.put((What.BEGUN, child)),
            lambda: self._events.put((What.ENDED, child)),
        )

    def _schedule(self, place: _Place) -> float:
        pause = pause_after(place.quick_ends)
        place.starts_at = time.monotonic() + pause
        return pause

    def _begin(self) -> None:
        if self._has_begun or self._is_stopping:
            return
        self._has_begun = True
        for place in self._places[1:]:
            place.starts_at = time.monotonic()

    def _end(self, child: Child) -> None:
        child.close()
        place = self._places[child.number - 1]
        place.child = None
        is_quick = time.monotonic() - child.started_at < STEADY
        place.quick_ends = place.quick_ends + 1 if is_quick else 0
        if self._is_stopping or not (self._replaces and self._has_begun):
            self._worst = max(self._worst, _as_in_a_shell(child.exit_code))
            self._audience.on_end(child, None)
        else:
            self._audience.on_end(child, self._schedule(place))

    def _stop(self) -> None:
        self._is_stopping = True
        self._kill_at = time.monotonic() + self._stop_wait
        for place in self._places:
            place.starts_at = None
            if place.child:
                place.child.ask_to_stop()


def pause_after(quick_ends: int) -> float:
    """Return the seconds before the next start, from the number of quick ends in a row."""
    return 0.0 if quick_ends < 2 else min(2.0 ** (quick_ends - 2), PAUSE_MAX)


def _as_in_a_shell(exit_code: int | None) -> int:
    if exit_code is None:
        raise ValueError("The process has not ended.")
    return exit_code if exit_code >= 0 else 128 - exit_code
