"""Calls of ``manage.py queued_storage`` in processes of their own, as in a shell."""

import subprocess
import sys
from typing import Any

COMMAND = [sys.executable, "-m", "django", "queued_storage"]


def manage(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a verb to its end; what it wrote to both streams is text."""
    return subprocess.run(
        [*COMMAND, *arguments], env=environment, capture_output=True, text=True, timeout=60
    )


def in_shell(environment: dict[str, str], script: str, **options: Any) -> Any:
    """Run a script of bash, in which ``$QUEUED_STORAGE`` is the command."""
    variables = environment | {"QUEUED_STORAGE": " ".join(COMMAND)}
    return subprocess.run(
        ["bash", "-c", script], env=variables, capture_output=True, text=True, timeout=60, **options
    )
