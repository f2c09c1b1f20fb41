import os
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.management.progress import Progress
from queued_storage.operations.passes import Step
from tests.support.command import on_default, run, save, transferred
from tests.support.scripted import file, on_disk
from tests.support.versions import no_table

pytestmark = pytest.mark.django_db(transaction=True)


def test_verb_is_required() -> None:
    with pytest.raises(CommandError, match="subcommand"):
        run()


def test_missing_table_is_explained() -> None:
    with no_table():
        for verb in (["status"], ["worker", "--until-empty"], ["evict", "--all"]):
            with pytest.raises(
                CommandError, match=r"not have the table.* Run 'manage\.py migrate'"
            ):
                run(*verb)


def test_interrupted_verb_can_be_repeated(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(step: Step) -> None:
        raise KeyboardInterrupt

    transferred(storage, "a.txt", "b.txt")
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "__call__", lambda self, step: interrupt(step))
        with pytest.raises(CommandError, match="again") as caught:
            run("evict", "--all")
    assert caught.value.returncode == 130
    assert on_disk() == ["b.txt"]
    assert run("evict", "--all") == "1 file was evicted, 1,000 bytes.\n"


FORGED = "a\n0 files\x1b[2J.txt"


def test_names_cannot_break_lines(storage: Any) -> None:
    storage.local.save(FORGED, file(b"x" * 1000))
    os.utime(storage.local.path(FORGED), (0, 0))
    (out,) = on_default("orphans", "local").splitlines()[:-1]
    assert out.startswith(r"a\n0 files\x1b[2J.txt  1,000 bytes")
    save(storage, f"b{FORGED}")
    ledger().update(state=State.FAILED, due_at=None, last_error="It broke.")
    assert r"(ba\n0 files\x1b[2J.txt) failed" in run("status")
    os.unlink(storage.local.path(f"b{FORGED}"))
    errors = StringIO()
    for verb, name in (("verify", f"b{FORGED}"), ("backfill", f"c{FORGED}")):
        with pytest.raises(CommandError) as caught:
            call_command(
                "queued_storage", verb, name, storage="default", stdout=errors, stderr=errors
            )
    verified, _count = errors.getvalue().splitlines()
    missed = str(caught.value)
    assert verified.startswith(r"ba\n0 files\x1b[2J.txt (default): missing")
    assert missed.startswith(r"The local storage has no file 'ca\n0 files\x1b[2J.txt'.")
