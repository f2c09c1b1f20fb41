"""What all verbs have in common."""

from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError

from queued_storage.ledger.database import ledger
from tests.support.command import run, save, transferred
from tests.support.scripted import file

pytestmark = pytest.mark.django_db(transaction=True)


DESTRUCTIVE = [
    ["orphans", "local", "--storage", "default", "--older-than", "0s", "--delete"],
    ["prune", "--all"],
    ["reconcile", "--repair", "different-local"],
    ["reconcile", "--repair", "missing-remote", "--repair", "different-remote"],
]


class Answer(StringIO):
    """A terminal at which somebody types."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("verb", DESTRUCTIVE, ids=" ".join)
def test_destructive_verb_without_a_terminal(storage: Any, verb: list[str]) -> None:
    transferred(storage, "a.txt", "gone.txt")
    for place in (storage.local, storage.remote):
        place.delete("gone.txt")
        place.save("orphan.txt", file())
    with pytest.raises(CommandError, match="--yes") as caught:
        run(*verb)
    assert caught.value.returncode == 2
    assert storage.local.exists("orphan.txt")
    assert ledger().count() == 2
    run(*verb, "--dry-run")


@pytest.mark.parametrize("verb", DESTRUCTIVE, ids=" ".join)
@pytest.mark.parametrize("answer", ["", "n\n", "no\n", "\n", "yes please\n"])
def test_destructive_verb_is_refused(
    storage: Any, verb: list[str], answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(storage, "a.txt")
    storage.local.save("orphan.txt", file())
    monkeypatch.setattr("sys.stdin", Answer(answer))
    with pytest.raises(CommandError, match=r"Nothing was done\."):
        run(*verb)
    assert storage.local.exists("orphan.txt")


@pytest.mark.parametrize("answer", ["y\n", "YES\n"])
def test_destructive_verb_is_confirmed(
    storage: Any, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(storage, "a.txt")
    storage.local.save("orphan.txt", file())
    monkeypatch.setattr("sys.stdin", Answer(answer))
    assert "Continue? [y/N]" in run(*DESTRUCTIVE[0])
    assert not storage.local.exists("orphan.txt")
