"""Child processes that are there at once: forks of a server that has Django set up already."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.process import BaseProcess
from typing import Any
from unittest import mock

from django.test import override_settings

from tests.support import failpoints

SETTINGS = ("QUEUED_STORAGE", "STORAGES")  # that a child takes over from its test

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.support.warm"])


class Forks:
    """Starts functions in processes of their own, on the database and directory of the test."""

    def __init__(self, environment: Mapping[str, str], settings: Any) -> None:
        self._environment = environment
        self._settings = settings
        self._children: list[BaseProcess] = []

    def start(
        self,
        function: Callable[..., object],
        *args: Any,
        point: failpoints.FailPoint | None = None,
        hold: bool = False,
    ) -> BaseProcess:
        """Run a function of a module; a fail point kills the process, or holds it."""
        changes = {name: getattr(self._settings, name) for name in SETTINGS}
        if point:
            changes["FAIL_POINT"] = point.setting(hold=hold)
        child = _context.Process(target=_run, args=(changes, function, args))
        with mock.patch.dict(os.environ, self._environment):  # for the server, if it is new
            child.start()
        self._children.append(child)
        return child

    def kill_all(self) -> None:
        for child in self._children:
            with contextlib.suppress(ValueError):  # closed
                child.kill()
                child.join()
                child.close()


def _run(changes: dict[str, Any], function: Callable[..., object], args: tuple[Any, ...]) -> None:
    if sys.platform == "linux":  # die with the server, which ends with the test run
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    override_settings(**changes).enable()
    if "FAIL_POINT" in changes:
        failpoints.arm(changes["FAIL_POINT"])
    function(*args)


@contextlib.contextmanager
def forks(environment: Mapping[str, str], settings: Any) -> Iterator[Forks]:
    found = Forks(environment, settings)
    try:
        yield found
    finally:
        found.kill_all()


def ended(child: BaseProcess, timeout: float = 30) -> int:
    """Wait for the end of a process; returns its exit status, negative for a signal."""
    child.join(timeout)
    assert child.exitcode is not None, f"{child} has not ended within {timeout} seconds"
    return child.exitcode
