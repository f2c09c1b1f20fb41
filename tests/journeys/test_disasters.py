"""The commands of the page about disasters, run after each of them."""

import os
import re
import shlex
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any, cast

import pytest
from django.core.files.storage import storages
from django.core.management import CommandError, call_command
from pytest_django import Settings

from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from queued_storage.operations import errands
from tests.support.scripted import LONG_AGO, ScriptedStorage, file, on_disk, read, row
from tests.support.testapp.models import Document
from tests.test_docs import blocks, verbs

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_lane]
VERBS = verbs()
QUEUED = "queued_storage.backends.QueuedStorage"
PAGE = Path(__file__).parents[2] / "docs" / "disasters.md"


@pytest.fixture
def storage() -> Any:
    return storages["default"]


def commands(title: str, block: int = 0) -> list[list[str]]:
    """Return the arguments of the commands in a code block of a section."""
    section = re.split(r"^## ", PAGE.read_text(), flags=re.M)
    [text] = [each for each in section if each.startswith(f"{title}\n")]
    lines = blocks(text, "")[block].splitlines()
    return [shlex.split(line.removeprefix("python manage.py queued_storage ")) for line in lines]


def run_all(
    storage: Any, title: str, block: int = 0, *, places: dict[str, str] | None = None
) -> dict[str, str]:
    """Run the commands; return the output of each verb, the last one of its name.

    ``places`` are those of the test, by those in the page.
    """
    outputs, outcomes = {}, set()
    for arguments in commands(title, block):
        arguments = [(places or {}).get(argument, argument) for argument in arguments]
        parser = VERBS[arguments[0]]
        if "--yes" in parser._option_string_actions and arguments[:2] != ["remotes", "pause"]:
            arguments = [*arguments, "--yes"]
        out = StringIO()
        try:
            call_command("queued_storage", *arguments, stdout=out, stderr=out)
        except CommandError as error:  # code 2 is an error in the page
            out.write(str(error))
            outcomes.add(error.returncode)
        storage.queue.deliver()
        outputs[" ".join(arguments[:2])] = out.getvalue()
    assert outcomes <= {1}, outputs
    return outputs


def saved(storage: Any, *names: str, transfer: bool = True) -> None:
    for name in names:
        assert storage.save(name, file(name.encode())) == name
    if transfer:
        assert storage.queue.deliver() == {}


def evict(*names: str) -> None:
    assert errands.evict(ledger().filter(name__in=names)) == len(names)


def require_right(storage: Any, *names: str) -> None:
    for name in names:
        assert read(storage, name) == name.encode()
        assert row(storage, name).state == State.TRANSFERRED
        assert read(storage.remote, row(storage, name).remote_name) == name.encode()


def test_database_older_than_the_files(storage: Any) -> None:
    saved(storage, "evicted", "deleted", "restored")
    evict("restored")
    saved(storage, "pending", "failed", "kept", transfer=False)
    ledger().filter(name="failed").update(state=State.FAILED, due_at=None)
    backup = list(QueuedFile.objects.values())
    storage.transfer("failed")
    storage.queue.deliver()
    evict("evicted", "pending", "failed")
    storage.delete("deleted")
    assert errands.restore(ledger().filter(name="restored")) == 1
    saved(storage, "new")
    QueuedFile.objects.all().delete()
    QueuedFile.objects.bulk_create(QueuedFile(**each) for each in backup)
    for place in ("disk", "far"):
        make_old(place, "new")

    outputs = run_all(storage, "Database older than the files")

    require_right(storage, "evicted", "pending", "failed", "restored", "kept")
    assert "1 file was removed" in outputs["prune --all"]
    assert storage.queued_file("deleted") is None
    for side in ("local", "remote"):
        assert "new" in outputs[f"orphans {side}"]
        assert "1 orphan was found" in outputs[f"orphans {side}"]


def test_adopting_a_single_file(storage: Any) -> None:
    saved(storage, "contract.pdf", transfer=False)
    backup = QueuedFile.objects.get()
    storage.queue.deliver()
    evict("contract.pdf")
    backup.save()
    outputs = run_all(storage, "Database older than the files", 1)
    assert "1 file was adopted" in outputs["adopt --storage"]
    require_right(storage, "contract.pdf")


def make_old(place: str, name: str) -> None:
    os.utime(storages[place].path(name), (LONG_AGO.timestamp(),) * 2)  # type: ignore[attr-defined]


def test_files_older_than_the_database(storage: Any) -> None:
    saved(storage, "same", "overwritten", "evicted")
    backup = Path(storage.local.location).with_name("backup")
    shutil.copytree(storage.local.location, backup)
    with storage.open("overwritten", "wb") as opened:
        opened.write(b"overwritten")
    saved(storage, "since")
    Path(backup, "overwritten").write_bytes(b"older than it")
    evict("evicted")
    saved(storage, "lost", transfer=False)
    shutil.rmtree(storage.local.location)
    backup.rename(storage.local.location)

    outputs = run_all(storage, "Files older than the database")

    require_right(storage, "same", "overwritten", "evicted", "since")
    assert not row(storage, "evicted").is_local
    assert row(storage, "lost").state == State.FAILED
    assert "lost (default): missing local copy" in outputs["verify --content"]
    assert "1 copy differs" in outputs["verify --content"]


def test_lost_bucket(storage: Any) -> None:
    saved(storage, "local", "gone")
    evict("gone")
    saved_at = storage.local.get_modified_time("local")
    ledger().filter(name="local").update(checksum="", saved_at=saved_at)  # as if adopted
    shutil.rmtree(storage.remote.location)

    outputs = run_all(storage, "Lost bucket")

    require_right(storage, "local")
    assert "gone" in outputs["prune --all"]
    assert "1 file would be removed" in outputs["prune --all"]


def test_restored_bucket(storage: Any) -> None:
    saved(storage, "a", "b")
    Path(storage.remote.path("a")).write_bytes(b"older")
    run_all(storage, "Lost bucket")
    require_right(storage, "a", "b")


@pytest.fixture
def provider(settings: Settings) -> Callable[..., Any]:
    """Return a function that configures the storage of the section "Lost remote"."""
    for name in ("s3", "b2", "r2"):
        shutil.rmtree(Path(settings.DIRECTORY) / name, ignore_errors=True)
        scripted = "tests.support.scripted.ScriptedStorage"
        backend = {"BACKEND": scripted, "OPTIONS": {"place": name}}
        settings.STORAGES = settings.STORAGES | {name: backend}

    def configure(**options: Any) -> Any:
        default = {"BACKEND": QUEUED, "OPTIONS": {"local": "disk", **options}}
        settings.STORAGES = settings.STORAGES | {"default": default}
        return storages["default"]

    return configure


def test_lost_remote(provider: Callable[..., Any]) -> None:
    storage = provider(remote="s3", mirrors=["b2"])
    saved(storage, "mirrored", "deleted")
    evict("mirrored", "deleted")
    storage = provider(remote="s3", mirrors=["r2"])
    saved(storage, "other mirror")
    evict("other mirror")
    storage = provider(remote="s3")
    saved(storage, "local", "gone")
    evict("gone")
    saved(storage, "pending", transfer=False)
    storage = provider(remote="b2", mirrors=["r2"], previous=["s3"])
    cast(ScriptedStorage, storages["s3"]).refuses = True
    storage.delete("deleted")

    outputs = run_all(storage, "Lost remote")

    assert "gone (default)" in outputs["remotes forget"]
    names = ("mirrored", "other mirror", "local", "pending")
    require_right(storage, *names)
    for name in names:
        assert read(storages["b2"], name) == read(storages["r2"], name) == name.encode()
    assert storage.queued_file("deleted") is None
    assert row(storage, "gone").state == State.TRANSFERRED
    assert "1 copy differs" in outputs["verify"]


def test_lost_mirror(provider: Callable[..., Any]) -> None:
    storage = provider(remote="b2", mirrors=["s3"])
    saved(storage, "a", "deleted")
    storage = provider(remote="b2")
    lost = cast(ScriptedStorage, storages["s3"])
    lost.refuses = True
    outputs = run_all(
        storage, "Lost remote", 1, places={"s3://s3.example.com/media": lost.location}
    )
    assert "2 copies are forgotten" in outputs["remotes forget"]
    storage.delete("deleted")
    assert storage.queue.deliver() == {}
    assert storage.queued_file("deleted") is None
    require_right(storage, "a")


def test_lost_disk(storage: Any) -> None:
    saved(storage, "a", "b", "evicted")
    evict("evicted")
    saved(storage, "lost", transfer=False)
    shutil.rmtree(storage.local.location)

    outputs = run_all(storage, "Lost disk")

    require_right(storage, "a", "b", "evicted")
    assert on_disk() == ["a", "b", "evicted"]
    assert "lost" in outputs["prune --all"]


def test_lost_disk_of_one_host(storage: Any, settings: Settings) -> None:
    hosts = {**settings.QUEUED_STORAGE, "LOCAL_PER_HOST": True}
    settings.QUEUED_STORAGE = hosts | {"HOST": "web-1"}
    documents = [Document(), Document(), Document()]
    for document, name in zip(documents, ("there", "since", "lost"), strict=True):
        document.file.save(name, file(f"docs/{name}".encode()))
    there, since, lost = (str(document.file.name) for document in documents)
    backup = QueuedFile.objects.get(name=since)
    ledger().filter(name=lost).update(state=State.HELD, due_at=None)
    storage.queue.deliver()
    backup.save()  # the ledger is older than the last transfer
    shutil.rmtree(storage.local.location)
    settings.QUEUED_STORAGE = hosts | {"HOST": "web-2"}

    outputs = run_all(storage, "Lost disk", 1)

    require_right(storage, there, since)
    assert "1 file was adopted" in outputs["adopt --storage"]
    assert row(storage, lost).state == State.FAILED
    assert lost in outputs["status"]
