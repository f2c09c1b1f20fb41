from typing import Any

import pytest
from django.core.management import CommandError

from queued_storage.backends import QueuedStorage
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from tests.support.command import run, save
from tests.support.scripted import LONG_AGO

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("verb", ["retry", "cancel", "evict", "restore"])
def test_selection_is_required(verb: str) -> None:
    with pytest.raises(CommandError, match="--all"):
        run(verb)


def test_select_by_name_storage_and_age(storage: Any) -> None:
    other = QueuedStorage("disk", "far", alias="other")
    save(storage, "a.txt", "b.txt")
    save(other, "c.txt", "d.txt")
    ledger().filter(name__in=["b.txt", "d.txt"]).update(saved_at=LONG_AGO)
    for arguments, names in [
        (["a.txt", "c.txt"], "ac"),
        (["--storage", "other"], "cd"),
        (["--older-than", "30d"], "bd"),
        (["--storage", "other", "--older-than", "1h"], "d"),
        (["--all"], "abcd"),
    ]:
        ledger().update(state=State.PENDING)
        out = run("cancel", *arguments)
        held = ledger().filter(state=State.HELD).order_by("name").values_list("name", flat=True)
        assert list(held) == [f"{name}.txt" for name in names]
        assert out.startswith(f"{len(names)} file")
