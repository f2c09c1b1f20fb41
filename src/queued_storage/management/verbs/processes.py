"""``worker --processes``: the parent process, and what its children do for it."""

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from django.core.management.base import CommandError
from django.db import connections

from ...reporting.logs import logger
from ...runtime import ending
from ...runtime.channels import Child, Parent
from ...runtime.processes import Audience, Processes
from ..terminal import Terminal

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"  # the variable of prometheus-client

# What to do if a signal ended a process that nobody here has killed
ADVICE = {
    signal.SIGKILL: "If nobody killed it, the system ran out of memory; see the kernel's log.",
    signal.SIGSEGV: "A library crashed. With PYTHONFAULTHANDLER=1, the log shows where.",
}


def run_processes(options: dict[str, Any], stdout: Terminal) -> None:
    """Run the command line of this process in several others, until they have ended for good."""
    if sys.platform == "win32":
        raise CommandError(
            "--processes is not available on Windows. Start several workers instead.", returncode=2
        )
    if "worker" not in sys.argv:
        raise CommandError(
            "--processes works on the command line only, because each process runs the same "
            "command line: manage.py queued_storage worker --processes 2",
            returncode=2,
        )
    with _metrics(options["metrics"], stdout) as directory:
        connections.close_all()  # of the checks, for example
        processes = Processes(
            options["processes"],
            # This process has already shown what Django's checks say.
            [sys.executable, *sys.orig_argv[1:], "--skip-checks"],
            {**os.environ, **({DIRECTORY: directory} if directory else {})},
            _Reporter(options["processes"], directory, stdout),
            replaces=not options["until_empty"],
            stop_wait=options["exit_wait"] + 2 * ending.PATIENCE,
        )
        exit_code = processes.run()
    if exit_code:  # the process has said why
        raise SystemExit(exit_code)
    stdout.write("Stopped.")


@contextmanager
def _metrics(place: tuple[str, int] | None, stdout: Terminal) -> Iterator[str]:
    """Serve the metrics of all children; yield the directory that they share, if any."""
    if place is None:
        yield ""
        return
    metrics = import_module("queued_storage.metrics")  # needs an optional library
    metrics.install()
    address, port = place
    with tempfile.TemporaryDirectory(prefix="queued-storage-metrics-") as own:
        directory = os.environ.get(DIRECTORY) or own
        with explained(address, port):
            server, _thread = metrics.serve_children(port, address, directory)
        stdout.write(f"Metrics at http://{address}:{server.server_port}/metrics.")
        stdout.flush()
        yield directory


@contextmanager
def explained(address: str, port: int) -> Iterator[None]:
    """Explain why metrics cannot be served."""
    try:
        yield
    except OSError as error:
        raise CommandError(f"Metrics cannot be served at {address}:{port}: {error}") from error


class _Reporter(Audience):
    """Says what happens to the processes."""

    def __init__(self, count: int, directory: str, stdout: Terminal) -> None:
        self._count = count
        self._directory = directory
        self._stdout = stdout

    def on_start(self, child: Child) -> None:
        self._stdout.write(f"Process {child.number} of {self._count}: started, pid {child.pid}.")
        self._stdout.flush()

    def on_end(self, child: Child, pause: float | None) -> None:
        if self._directory:
            import_module("queued_storage.metrics").forget_gauges(child.pid, self._directory)
        if not child.exit_code and pause is None:
            return
        text, args = _end_of(child)
        if pause is not None:
            text, args = f"{text} %s", (*args, _replaced(pause))
        logger.warning(text, *args)

    def on_failure(self, number: int, error: OSError, pause: float) -> None:
        logger.error("Process %d could not be started: %s. %s", number, error, _replaced(pause))

    def on_kill(self, child: Child) -> None:
        logger.error(
            "Process %d (pid %d) does not stop, so it is killed. Its files are due again when "
            "their leases have expired.",
            child.number,
            child.pid,
        )


def _end_of(child: Child) -> tuple[str, tuple[Any, ...]]:
    code = child.exit_code or 0
    who = (child.number, child.pid)
    if code >= 0:
        return "Process %d (pid %d) ended with exit code %d; see its own messages.", (*who, code)
    name = next((each.name for each in signal.Signals if each == -code), f"signal {-code}")
    advice = next((text for number, text in ADVICE.items() if number == -code), "")
    text = (
        "Process %d (pid %d) was ended by %s. Its files are due again when their leases have "
        "expired."
    )
    return (f"{text} %s", (*who, name, advice)) if advice else (text, (*who, name))


def _replaced(pause: float) -> str:
    if not pause:
        return "Another one is started now."
    return f"Another one is started in {pause:g} seconds, because this has happened several times."


# In a child


def follow(parent: Parent, stop: Callable[[], object]) -> None:
    """Let log records name this process; call ``stop`` when the parent asks for it, or ends."""

    def on_stop(is_orphan: bool) -> None:
        if is_orphan:
            logger.warning("The parent process has ended, so this one stops.")
        stop()

    # Log records have this name. Other verbs should not wait for this import.
    import_module("multiprocessing").current_process().name = f"worker-{parent.number}"
    parent.watch(on_stop)
