import os
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from queued_storage.backends import QueuedStorage
from queued_storage.ledger.states import State
from tests.support.command import on_default, run, states
from tests.support.scripted import file, on_disk
from tests.support.testapp.models import Document

pytestmark = pytest.mark.django_db(transaction=True)


def put_old(place: Any, *names: str) -> None:
    for name in names:
        place.save(name, file(b"x" * 1000))
        os.utime(place.path(name), (0, 0))


def test_backfill(storage: Any) -> None:
    put_old(storage.local, "docs/a.txt", "docs/b.txt", "photos/c.png", "other.txt")
    for name in ("docs/a.txt", "docs/b.txt"):
        Document.objects.create(file=name)
    assert on_default("backfill", "--dry-run") == "2 files would be recorded, 2.0 KB.\n"
    assert states() == []
    assert on_default("backfill") == "2 files were recorded, 2.0 KB.\n"
    assert on_default("backfill") == "0 files were recorded, 0 bytes.\n"
    assert on_default("backfill", "--under", "photos") == "1 file was recorded, 1,000 bytes.\n"
    assert on_default("backfill", "--under", ".") == "1 file was recorded, 1,000 bytes.\n"
    assert storage.queue.deliver() == {}
    assert on_disk("far") == on_disk()


def test_adopt(storage: Any) -> None:
    put_old(storage.remote, "docs/a.txt", "docs/b.txt", "photos/c.png")
    put_old(storage.local, "docs/b.txt")
    Document.objects.create(file="docs/a.txt")
    assert on_default("adopt", "--dry-run") == "1 file would be adopted, 1,000 bytes.\n"
    assert states() == []
    assert on_default("adopt") == "1 file was adopted, 1,000 bytes.\n"
    assert on_default("adopt", "docs/b.txt", "--content") == "1 file was adopted, 1,000 bytes.\n"
    assert on_default("adopt", "--under", ".") == "1 file was adopted, 1,000 bytes.\n"
    assert on_default("adopt", "--under", ".") == "0 files were adopted, 0 bytes.\n"
    assert states() == [State.TRANSFERRED] * 3
    assert run("verify", "--content") == "3 files were compared.\n"


@pytest.mark.parametrize("verb", ["adopt", "backfill"])
def test_skipped_files_set_the_exit_code(storage: Any, verb: str) -> None:
    out = StringIO()
    Document.objects.create(file="a.txt")
    with pytest.raises(CommandError, match="1 file was skipped") as caught:
        call_command("queued_storage", verb, storage="default", stdout=out, stderr=out)
    assert caught.value.returncode == 1
    assert out.getvalue().startswith("a.txt: ")


def test_storage_without_fields(storage: Any) -> None:
    other = QueuedStorage("disk", "far", alias="other")
    assert other.alias
    with pytest.raises(CommandError, match=r"--storage: .*default.*other"):
        run("backfill")
    with pytest.raises(CommandError, match="--under"):
        run("backfill", "--storage", "other")
