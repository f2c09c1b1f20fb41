from typing import Any

import pytest
from django.core.files.storage import storages
from django.core.management import CommandError

from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from tests.support.command import run, save, states, transferred
from tests.support.scripted import file, make, on_disk

pytestmark = pytest.mark.django_db(transaction=True)


def test_prune(storage: Any) -> None:
    transferred(storage, "gone.txt", "remote.txt", "whole.txt")
    save(storage, "lost.txt", "local.txt")
    for name in ("gone.txt", "remote.txt", "lost.txt"):
        storages["disk"].delete(name)
    storages["far"].delete("gone.txt")
    listed = ["gone.txt (default)", "lost.txt (default)"]
    out = run("prune", "--all", "--dry-run").splitlines()
    assert out == [*listed, "2 files would be removed from the ledger."]
    with pytest.raises(CommandError, match="higher --at-most"):
        run("prune", "--all", "--yes", "--at-most", "1")
    assert run("prune", "--all", "--yes").splitlines() == [
        listed[1],
        "1 file was removed from the ledger.",
    ]
    assert storage.queue.deliver() == {}
    left = ledger().order_by("name").values_list("name", flat=True)
    assert list(left) == ["local.txt", "remote.txt", "whole.txt"]
    assert on_disk() == ["local.txt", "whole.txt"]


def test_prune_stops_at_the_limit(storage: Any) -> None:
    transferred(storage, "a.txt")
    for place in ("disk", "far"):
        storages[place].delete("a.txt")
    with pytest.raises(CommandError, match="higher --at-most"):
        run("prune", "--all", "--yes", "--at-most", "0")
    assert states() == [State.TRANSFERRED]
    assert run("prune", "--all", "--yes", "--at-most", "1").endswith(
        "1 file was removed from the ledger.\n"
    )


def test_prune_keeps_files_on_an_unreachable_remote(storage: Any) -> None:
    scripted = make()
    name = scripted.save("a.txt", file())
    scripted.queue.deliver()
    storages["disk"].delete(name)
    scripted.remote.refuses = True
    with pytest.raises(CommandError, match="could not be checked"):
        run("prune", "--all", "--yes")
    assert states() == [State.TRANSFERRED]
