"""Calls of ``manage.py queued_storage`` in processes of their own, as in a shell."""

import contextlib
import os
import pty
import subprocess
import sys

COMMAND = [sys.executable, "-m", "django", "queued_storage"]


def manage(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a verb to its end; what it wrote to both streams is text."""
    return subprocess.run(
        [*COMMAND, *arguments], env=environment, capture_output=True, text=True, timeout=60
    )


def in_bash(environment: dict[str, str], script: str) -> subprocess.CompletedProcess[str]:
    """Run a script of bash, in which ``$COMMAND`` is the command."""
    variables = environment | {"COMMAND": " ".join(COMMAND)}
    return subprocess.run(
        ["bash", "-c", script], env=variables, capture_output=True, text=True, timeout=60
    )


def on_terminal(environment: dict[str, str], *arguments: str) -> str:
    """Run a verb on a terminal, with colors if it wants some; return what that shows."""
    ours, theirs = pty.openpty()
    environment = environment | {"TERM": "xterm-256color", "DJANGO_COLORS": ""}
    with subprocess.Popen(
        [*COMMAND, *arguments], env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # it has ended
            while piece := os.read(ours, 65536):
                shown += piece
        process.wait(60)
    os.close(ours)
    return shown.decode()
