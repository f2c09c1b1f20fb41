"""The first guarantee: no request waits for the remote."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from django.core.files.storage import FileSystemStorage
from django.db import transaction
from storages.backends.s3 import S3Storage

from queued_storage.exceptions import NotPublished
from queued_storage.files import volumes
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.steps import REJECT
from tests.support.fault_proxy import FaultProxy, Mode
from tests.support.scripted import ScriptedStorage, file, make, read, row
from tests.support.stepping import Scripted, never, run
from tests.support.testapp.models import Document

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_database]


class UnreachableStorage(ScriptedStorage):
    """A remote that counts its calls and raises an error for each."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses = True


def in_state(state: str) -> tuple[Any, str]:
    """Return a storage whose remote is unreachable, and the name of a local file in this state."""
    steps = [Scripted(REJECT("no") if state == State.REJECTED else never)]
    options = {"steps": steps} if state in (State.PREPARING, State.REJECTED) else {}
    storage = make(remote=UnreachableStorage(), delayed=state == State.HELD, **options)
    name = storage.save("docs/a.txt", file(b"here"))
    if options:
        run(storage)
    storage.remote.refuses = False
    if state == State.FAILED:
        ledger().update(state=State.FAILED, due_at=None)
    elif state == State.TRANSFERRED:
        storage.queue.deliver()
    elif state == State.TRANSFERRING:
        assert ledger().claim(row(storage, name).pk)
    assert row(storage, name).state == state
    storage.remote.refuses = True
    storage.remote.calls.clear()
    return storage, name


OPERATIONS: dict[str, Callable[[Any, str], Any]] = {
    "save": lambda storage, name: storage.save("new.txt", file()),
    "save under a taken name": lambda storage, name: storage.save(name, file()),
    "delete": lambda storage, name: storage.delete(name),
    "exists": lambda storage, name: storage.exists(name),
    "exists of a deleted name": lambda storage, name: (storage.delete(name), storage.exists(name)),
    "url": lambda storage, name: storage.url(name),
    "urls": lambda storage, name: storage.urls([name, "unknown.txt"]),
    "url of an unknown name": lambda storage, name: storage.url("unknown.txt"),
    "stable_url": lambda storage, name: storage.stable_url(name),
    "size": lambda storage, name: storage.size(name),
    "open": lambda storage, name: read(storage, name),
    "path": lambda storage, name: storage.path(name),
    "local_path": lambda storage, name: storage.local_path(name).__enter__(),
    "modified": lambda storage, name: storage.get_modified_time(name),
    "created": lambda storage, name: storage.get_created_time(name),
    "accessed": lambda storage, name: storage.get_accessed_time(name),
    "using_remote": lambda storage, name: storage.using_remote(name),
    "get_storage": lambda storage, name: storage.get_storage(name),
    "queued_file": lambda storage, name: storage.queued_file(name),
    "transfer": lambda storage, name: storage.transfer(name),
    "rewrite": lambda storage, name: storage.open(name, "wb").close(),
    "append": lambda storage, name: storage.open(name, "ab").close(),
    "free name": lambda storage, name: storage.get_available_name(name),
    "valid name": lambda storage, name: storage.generate_filename("b c.txt"),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
@pytest.mark.parametrize("state", sorted(set(State.values) - {State.DELETING}))
def test_remote_is_not_called(state: str, operation: Callable[[Any, str], Any]) -> None:
    storage, name = in_state(state)
    with suppress(NotPublished):  # which says so without asking the remote
        operation(storage, name)
    assert storage.remote.calls == {}


KNOWN = ["save under a taken name", "delete", "exists", "url", "urls", "size", "modified",
         "created", "using_remote", "queued_file", "rewrite"]  # fmt: skip


@pytest.mark.parametrize("operation", KNOWN)
def test_evicted_file_needs_no_remote_call(operation: str) -> None:
    storage, name = in_state(State.TRANSFERRED)
    FileSystemStorage.delete(storage.local, name)
    OPERATIONS[operation](storage, name)
    assert storage.remote.calls == {}


URL_MODES = ["direct", "signed", "stable"]


@pytest.mark.parametrize("url_mode", URL_MODES)
@pytest.mark.parametrize("mode", [Mode.REFUSE, Mode.HANG, Mode.STATUS_500])
def test_url_needs_no_connection_to_s3(
    s3_proxy_options: dict[str, Any], s3_proxy: FaultProxy, url_mode: str, mode: Mode, client: Any
) -> None:
    """The view sends the file before the transfer, and redirects after it."""
    storage = make(remote=S3Storage(**s3_proxy_options), url_mode=url_mode)
    name = storage.save("known.txt", file())
    s3_proxy.mode = mode
    before = [client.get(storage.stable_url(name, expire)) for expire in (None, 60)]
    assert [answer.getvalue() for answer in before] == [b"bytes"] * 2
    s3_proxy.mode = Mode.OK
    storage.queue.deliver()
    s3_proxy.requests.clear()
    s3_proxy.mode = mode
    for expire in (None, 60):
        answer = client.get(storage.stable_url(name, expire))
        assert "X-Amz-Signature=" in answer.headers["Location"]
    assert s3_proxy.requests == []


def test_operations_in_one_transaction_call_no_remote() -> None:
    storage, name = in_state(State.TRANSFERRED)
    with transaction.atomic():
        other = storage.save("b.txt", file())
        storage.delete(name)
        storage.exists(other)
    assert storage.remote.calls == {}


def test_unknown_name_is_looked_up_on_the_remote() -> None:
    storage = make(remote=UnreachableStorage())
    with pytest.raises(ConnectionError):
        storage.exists("unknown.txt")
    assert storage.remote.calls == {"exists": 1}


@pytest.mark.one_database
@pytest.mark.parametrize("mode", [Mode.REFUSE, Mode.HANG, Mode.STATUS_500])
def test_ancestor_10_no_connection_to_an_unreachable_s3(
    s3_proxy_options: dict[str, Any], s3_proxy: FaultProxy, mode: Mode
) -> None:
    """In the ancestor, save() raised after 7 seconds and url() after 5."""
    storage = make(remote=S3Storage(**s3_proxy_options))
    known = storage.save("known.txt", file())
    storage.queue.deliver()
    s3_proxy.requests.clear()
    s3_proxy.mode = mode
    for ask in OPERATIONS.values():
        if not storage.exists(known):
            known = storage.save("known.txt", file())
        ask(storage, known)
    assert "X-Amz-Signature=" in storage.remote.url("known.txt")
    assert s3_proxy.requests == []


def test_model_field_makes_no_remote_call(django_assert_num_queries: Callable[..., Any]) -> None:
    """Create, display and delete a model instance that uses the default storage."""
    from django.core.files.storage import storages

    away = UnreachableStorage()
    storage: Any = storages["default"]
    remote = storage.sides.remote
    volumes.require(storage.alias, storage.local, mark=True)  # as the first save does
    given, remote.given = remote.given, away
    try:
        with django_assert_num_queries(2):
            document = Document.objects.create(file=file(b"x", "a.txt"))
        assert document.file.url == "/media/docs/a.txt"
        assert document.file.size == 1
        document.file.delete()
    finally:
        remote.given = given
    assert away.calls == {}
