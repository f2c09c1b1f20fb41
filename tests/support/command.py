"""Calls of ``manage.py queued_storage``."""

from io import StringIO
from typing import Any

from django.core.management import call_command

from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from tests.support.scripted import file


def run(*arguments: str) -> str:
    """Return the output of a verb, including its errors."""
    out = StringIO()
    call_command("queued_storage", *arguments, stdout=out, stderr=out)
    return out.getvalue()


def silently(*arguments: str) -> None:
    """Run a verb whose output does not matter, for example in another process."""
    run(*arguments)


def on_default(verb: str, *arguments: str) -> str:
    """Return the output of a verb for "default" only. Other tests may have created storages."""
    return run(verb, *arguments, "--storage", "default")


def save(storage: Any, *names: str) -> None:
    for name in names:
        assert storage.save(name, file(b"x" * 1000)) == name


def transferred(storage: Any, *names: str) -> None:
    save(storage, *names)
    assert storage.queue.deliver() == {}


def states() -> list[State]:
    return list(ledger().order_by("pk").values_list("state", flat=True))
