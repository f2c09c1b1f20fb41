"""Child processes that start quickly: forks of a server in which Django is set up."""

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

SETTINGS = ("QUEUED_STORAGE", "STORAGES")  # that a child inherits from its test

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.support.warm"])


class Forks:
    """Run functions in separate processes, with the database and the directory of the test."""

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
        """Run a function of a module. A fail point kills or holds the process."""
        changes = {name: getattr(self._settings, name) for name in SETTINGS}
        if point:
            changes["FAIL_POINT"] = point.setting(hold=hold)
        child = _context.Process(target=_run, args=(changes, function, args))
        # The first call starts the server with this environment.
        with mock.patch.dict(os.environ, self._environment):
            child.start()
        self._children.append(child)
        return child

    def kill_all(self) -> None:
        for child in self._children:
            with contextlib.suppress(ValueError):  # already closed
                child.kill()
                child.join()
                child.close()


def _run(changes: dict[str, Any], function: Callable[..., object], args: tuple[Any, ...]) -> None:
    if sys.platform == "linux":  # die with the server, which dies with the test run
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
    """Wait until a process ends. Return its exit status, which is negative for a signal."""
    child.join(timeout)
    assert child.exitcode is not None, f"{child} has not ended within {timeout} seconds"
    return child.exitcode
