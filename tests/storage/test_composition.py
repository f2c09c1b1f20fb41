"""What a storage is made of, and how Django makes storages."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import InMemoryStorage, Storage, default_storage, storages
from django.db.migrations.serializer import serializer_factory
from django.test import override_settings
from django.utils.module_loading import import_string
from pytest_django import Settings

from queued_storage.backends import QueuedStorage
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from queued_storage.tasks import TransferAndDelete
from queued_storage.testing import drain
from tests.support.actions import write
from tests.support.scripted import ScriptedStorage, file, make, on_disk, read, row
from tests.support.testapp.models import Paper

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("local", [InMemoryStorage, lambda: ScriptedStorage("disk")])
def test_any_two_storages_compose(local: Callable[[], Storage]) -> None:
    storage = make(local=local(), remote=InMemoryStorage(), task=TransferAndDelete)
    name = storage.save("docs/a.txt", file(b"one"))
    other = storage.save("docs/a.txt", file(b"two"))
    assert read(storage, name) == b"one"
    storage.queue.deliver()
    assert read(storage, name) == b"one"
    assert read(storage, other) == b"two"
    write(storage, name, b"new")
    assert read(storage, name) == b"new"
    storage.queue.deliver()
    assert read(storage, name) == b"new"
    storage.delete(name)
    storage.queue.deliver()
    assert not storage.exists(name)
    assert storage.listdir("docs") == ([], [other.removeprefix("docs/")])


def test_a_queued_storage_as_the_remote() -> None:
    middle = make(local=ScriptedStorage("disk/middle"), task=TransferAndDelete)
    storage = make(local=ScriptedStorage("disk/near"), remote=middle, task=TransferAndDelete)
    name = storage.save("a.txt", file(b"a long way"))
    for _hop in range(2):
        assert read(storage, name) == b"a long way"
        storage.queue.deliver()
        middle.queue.deliver()
    assert on_disk() == []
    assert read(storage, name) == b"a long way"
    assert on_disk("far") == ["a.txt"]
    assert storage.url(name) == "https://far.example/a.txt"

    write(storage, name, b"and again")
    for _hop in range(2):
        assert read(storage, name) == b"and again"
        storage.queue.deliver()
        drain(middle)
    assert read(storage, name) == b"and again"
    assert len(on_disk("far")) == 1

    storage.delete(name)
    storage.queue.deliver()
    drain(middle)
    assert on_disk("far") == []
    assert not QueuedFile.objects.exists()


def test_delayed_files_are_held_until_transfer() -> None:
    storage = make(delayed=True)
    name = storage.save("a.txt", file())
    assert (row(storage, name).state, row(storage, name).due_at) == (State.HELD, None)
    assert storage.queue.messages == []
    assert drain(storage) == {}
    assert on_disk("far") == []
    storage.transfer(name)
    storage.queue.deliver()
    assert storage.using_remote(name)


def test_a_configured_storage_has_its_key_as_alias(default: Any) -> None:
    assert default.alias == "default"
    default.save("a.txt", file())
    assert QueuedFile.objects.get().alias == "default"


def test_override_settings_changes_both_storages(default: Any, settings: Settings) -> None:
    name = default.save("a.txt", file())
    moved = {
        **settings.STORAGES,
        "far": {
            "BACKEND": "django.core.files.storage.FileSystemStorage",
            "OPTIONS": {"location": f"{settings.DIRECTORY}/moved", "base_url": "/moved/"},
        },
    }
    with override_settings(STORAGES=moved):
        now = storages["default"]
        assert now is not default
        now.queue.messages.append([row(now, name).pk])
        assert now.queue.deliver() == {}
        assert now.url(name) == "/moved/a.txt"
        assert on_disk("moved") == ["a.txt"]
    assert on_disk("far") == []
    assert storages["default"].url(name) == "https://far.example/a.txt"


@pytest.mark.parametrize("make_it", [lambda: storages["default"], make], ids=["key", "inline"])
def test_a_storage_can_be_written_into_a_migration(make_it: Callable[[], Any]) -> None:
    storage = QueuedStorage("disk", "far", alias="migrated", delayed=True)
    path, args, kwargs = storage.deconstruct()  # type: ignore[attr-defined]
    assert path == "queued_storage.backends.QueuedStorage"
    assert (args, kwargs) == (("disk", "far"), {"alias": "migrated", "delayed": True})
    text, imports = serializer_factory(storage).serialize()
    assert imports == {"import queued_storage.backends"}
    assert "queued_storage.backends.QueuedStorage('disk', 'far'," in text
    assert make_it().deconstruct()[0] == "queued_storage.backends.QueuedStorage"


def test_a_reconstructed_storage_has_the_same_rows(default: Any) -> None:
    """Wagtail reconstructs a storage to delete files in a task."""
    name = default.save("a.txt", file(b"x"))
    default.queue.deliver()
    path, args, kwargs = default_storage.deconstruct()  # type: ignore[attr-defined]
    again = import_string(path)(*args, **kwargs)
    assert again is not default
    assert again.alias == default.alias
    again.delete(name)
    default.queue.deliver()
    assert default.queued_file(name) is None
    assert on_disk("far") == []


def test_deconstructing_a_class_without_the_alias_option(settings: Settings) -> None:
    settings.STORAGES = {**settings.STORAGES, "bare": {"BACKEND": f"{__name__}.Bare"}}
    path, args, kwargs = storages["bare"].deconstruct()  # type: ignore[attr-defined]
    assert (args, kwargs) == ((), {})
    assert import_string(path)().remote is storages["far"]


class Bare(QueuedStorage):
    local = "disk"
    remote = "far"

    def __init__(self) -> None:
        super().__init__()


def test_fields_with_a_storage_chosen_at_run_time(default: Any) -> None:
    paper = Paper.objects.create(file=file(b"x", "a.txt"))
    default.queue.deliver()
    assert paper.file.is_remote


def test_a_storage_survives_copying(storage: Any) -> None:
    twin = copy.deepcopy(QueuedStorage("disk", "far", alias="copied"))
    name = twin.save("a.txt", file())
    assert read(twin, name) == b"bytes"


def test_two_configurations_under_one_alias_are_refused(settings: Settings) -> None:
    one = make(alias="same")
    assert one.alias == "same"
    with pytest.raises(ImproperlyConfigured, match="'same'"):
        make(alias="same", remote=ScriptedStorage("disk/elsewhere")).save("a.txt", file())
    assert on_disk() == []
    make(alias="same").save("a.txt", file())


def test_no_secret_is_in_the_alias() -> None:
    storage = QueuedStorage(
        "disk",
        "storages.backends.s3.S3Storage",
        remote_options={"secret_key": "very secret", "bucket_name": "b"},
    )
    assert "secret" not in storage.alias
    assert "secret" not in repr(storage)
