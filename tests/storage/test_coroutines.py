"""The methods that async code awaits, and what the others say there."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.core.asgi import get_asgi_application
from django.core.exceptions import SynchronousOnlyOperation
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.db.transaction import TransactionManagementError
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import override_settings
from django.urls import path
from pytest_django import Settings

from queued_storage.exceptions import TransferError, TransferTimeout
from queued_storage.models import QueuedFile
from queued_storage.queues.threads import ThreadQueue
from queued_storage.storage.advising import COROUTINES
from tests.support.actions import evicted
from tests.support.scripted import disk, file, make, on_disk, read, row

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def uncached(settings: Settings) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "CACHE": None}


# URLs without a database


def in_async_code(call: Callable[[], Any]) -> Any:
    async def main() -> Any:
        return call()

    return asyncio.run(main())


def in_a_broken_transaction(call: Callable[[], Any]) -> Any:
    with transaction.atomic():
        try:
            with transaction.atomic(savepoint=False):
                raise IntegrityError
        except IntegrityError:
            pass
        try:
            return call()
        finally:
            transaction.set_rollback(True)


def without_a_database(call: Callable[[], Any]) -> Any:
    def refuse(*args: Any) -> None:
        raise DatabaseError("The server went away.")

    with connection.execute_wrapper(refuse):
        return call()


wheres = pytest.mark.parametrize(
    "where", [in_async_code, in_a_broken_transaction, without_a_database]
)


def pending(storage: Any) -> str:
    return str(storage.save("a.txt", file()))


def transferred(storage: Any) -> str:
    name = pending(storage)
    storage.queue.deliver()
    return name


def unknown(storage: Any) -> str:
    return "a.txt"


@wheres
@pytest.mark.parametrize(
    ("place", "url"),
    [
        (pending, "/media/a.txt"),
        (transferred, "/media/a.txt"),
        (evicted, "https://far.example/a.txt"),
        (unknown, "https://far.example/a.txt"),
    ],
)
def test_urls_need_no_database(
    where: Callable[..., Any], place: Callable[[Any], str], url: str
) -> None:
    storage = make()
    name = place(storage)
    storage.remote.refuses = True
    assert where(lambda: storage.url(name)) == url
    assert where(lambda: storage.urls([name, name])) == {name: url}


@wheres
def test_a_cached_url_is_right_without_a_database(
    where: Callable[..., Any], settings: Settings
) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "CACHE": "default"}
    storage = make()
    storage.remote.save("a.txt", file(b"foreign"))
    name = transferred(storage)
    url = storage.url(name)
    assert url.startswith("https://far.example/a_")
    assert where(lambda: storage.url(name)) == url
    assert where(lambda: storage.urls([name])) == {name: url}


@wheres
def test_stable_urls_need_no_database(where: Callable[..., Any]) -> None:
    storage = make(url_mode="stable")
    name = pending(storage)
    url = storage.url(name)
    assert where(lambda: storage.url(name)) == url
    assert where(lambda: storage.urls([name])) == {name: url}


@wheres
@pytest.mark.parametrize(("mode", "options"), [("signed", {}), ("stable", {"expire": 60})])
def test_signed_urls_are_answered_without_a_database(
    where: Callable[..., Any], mode: str, options: dict[str, Any]
) -> None:
    storage = make(url_mode=mode)
    name = pending(storage)
    assert "signature" in where(lambda: storage.url(name, **options))


# The other methods

CALLS = {
    "delete": lambda storage: storage.delete("a.txt"),
    "exists": lambda storage: storage.exists("a.txt"),
    "get_accessed_time": lambda storage: storage.get_accessed_time("a.txt"),
    "get_created_time": lambda storage: storage.get_created_time("a.txt"),
    "get_modified_time": lambda storage: storage.get_modified_time("a.txt"),
    "get_storage": lambda storage: storage.get_storage("a.txt"),
    "listdir": lambda storage: storage.listdir(""),
    "open": lambda storage: storage.open("a.txt"),
    "path": lambda storage: storage.path("a.txt"),
    "queued_file": lambda storage: storage.queued_file("a.txt"),
    "save": lambda storage: storage.save("b.txt", file()),
    "size": lambda storage: storage.size("a.txt"),
    "transfer": lambda storage: storage.transfer("a.txt"),
    "wait": lambda storage: storage.wait(),
}


@pytest.mark.parametrize("method", CALLS)
def test_an_error_in_async_code_names_the_coroutine(method: str) -> None:
    storage = make()
    pending(storage)
    with pytest.raises(SynchronousOnlyOperation) as caught:
        in_async_code(lambda: CALLS[method](storage))
    assert str(caught.value).startswith(f"{method}() of a queued storage")
    assert COROUTINES.get(method, "sync_to_async()") in str(caught.value)
    assert on_disk() == ["a.txt"]


@pytest.mark.parametrize("method", CALLS)
def test_error_in_a_broken_transaction_names_rollback(method: str) -> None:
    storage = make()
    pending(storage)
    with pytest.raises(TransactionManagementError) as caught:
        in_a_broken_transaction(lambda: CALLS[method](storage))
    assert str(caught.value).startswith(f"{method}() of a queued storage")
    assert "rollback" in str(caught.value)
    assert on_disk() == ["a.txt"]


def test_the_coroutines_exist() -> None:
    for name in COROUTINES.values():
        assert inspect.iscoroutinefunction(getattr(make(), name.removesuffix("()")))


# Coroutines


def test_everything_can_be_awaited() -> None:
    storage = make()

    async def main() -> None:
        assert await storage.asave("a.txt", file(b"bytes")) == "a.txt"
        assert await storage.aexists("a.txt")
        assert await storage.asize("a.txt") == 5
        assert await storage.aurl("a.txt") == "/media/a.txt"
        assert await storage.aurls(iter(["a.txt"])) == {"a.txt": "/media/a.txt"}
        result = await storage.atransfer("a.txt")
        assert await sync_to_async(lambda: result.state)() == "pending"
        await sync_to_async(storage.queue.deliver)()
        await storage.await_transferred()
        await storage.await_transferred(["a.txt"])
        await storage.adelete("a.txt")
        assert not await storage.aexists("a.txt")

    async_to_sync(main)()


def test_files_can_be_awaited() -> None:
    storage = make()

    async def main() -> None:
        async with await storage.aopen("a.txt", "wb") as opened:
            assert await opened.write(b"one\n") == 4
            await opened.write(b"two\n")
            assert not await storage.aexists("a.txt")
        assert opened.closed
        async with await storage.aopen("a.txt") as opened:
            assert opened.name == opened.file.name
            assert await opened.readline() == b"one\n"
            assert await opened.tell() == 4
            assert await opened.read() == b"two\n"
            assert await opened.size() == 8
            await opened.seek(1)
            assert await opened.read(2) == b"ne"
        pieces = [piece async for piece in (await storage.aopen("a.txt")).chunks(3)]
        assert pieces == [b"one", b"\ntw", b"o\n"]

    async_to_sync(main)()


def test_async_block_that_raises_discards_its_bytes() -> None:
    storage = make()

    async def main() -> None:
        async with await storage.aopen("a.txt", "wb") as opened:
            await opened.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async_to_sync(main)()
    assert on_disk() == []


def test_await_transferred_waits_without_holding_the_thread() -> None:
    storage = make()
    name = pending(storage)

    async def main() -> None:
        waiting = asyncio.create_task(storage.await_transferred([name], timeout=30))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await sync_to_async(storage.queue.deliver)()
        await waiting

    async_to_sync(main)()


def test_await_transferred_raises_as_wait_does() -> None:
    storage = make()
    name = pending(storage)

    async def main() -> None:
        with pytest.raises(TransferTimeout, match=r"within 0\.1 seconds"):
            await storage.await_transferred(timeout=0.1)
        with pytest.raises(FileNotFoundError):
            await storage.await_transferred(["b.txt"])
        await QueuedFile.objects.aupdate(state="failed", last_error="no")
        with pytest.raises(TransferError, match="no"):
            await storage.await_transferred([name])

    async_to_sync(main)()


# A server


async def upload(request: HttpRequest) -> HttpResponse:
    storage = served()
    name = await storage.asave(None, request.FILES["file"])
    await storage.await_transferred([name], timeout=30)
    return HttpResponse(f"{name} {await storage.aurl(name)}")


async def upload_in_pieces(request: HttpRequest) -> HttpResponse:
    storage = served()
    async with await storage.aopen("pieces.bin", "wb") as opened:
        while piece := request.read(1000):
            await opened.write(piece)
    return HttpResponse(storage.url("pieces.bin"))


async def download(request: HttpRequest, name: str) -> StreamingHttpResponse:
    opened = await served().aopen(name)
    return StreamingHttpResponse(opened.chunks(1000))


urlpatterns = [
    path("upload", upload),
    path("pieces", upload_in_pieces),
    path("<name>", download),
]
_served: list[Any] = []


def served() -> Any:
    return _served[0]


@pytest.fixture
def storage() -> Iterator[Any]:
    storage = make(queue=ThreadQueue())
    _served.append(storage)
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=[]):
        yield storage
    _served.clear()


async def sent(method: str, url: str, body: bytes = b"", kind: str = "") -> tuple[int, bytes]:
    """Send a request to Django's ASGI handler, with its body in pieces, and read the response."""
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": url,
        "query_string": b"",
        "headers": [
            (b"host", b"testserver"),
            (b"content-type", kind.encode()),
            (b"content-length", str(len(body)).encode()),
        ],
    }
    server = ApplicationCommunicator(get_asgi_application(), scope)
    for start in range(0, len(body) or 1, 700):
        is_last = start + 700 >= len(body)
        piece = {"body": body[start : start + 700], "more_body": not is_last}
        await server.send_input({"type": "http.request", **piece})
    begin = await server.receive_output(30)
    data = b"".join([piece async for piece in received(server)])
    await server.wait()
    return begin["status"], data


async def received(server: ApplicationCommunicator) -> AsyncIterator[bytes]:
    is_over = False
    while not is_over:
        piece = await server.receive_output(30)
        yield piece.get("body", b"")
        is_over = not piece.get("more_body")


def test_an_asgi_server_streams_both_ways(storage: Any) -> None:
    data = bytes(range(256)) * 40
    boundary = "boundary"
    form = SimpleUploadedFile("form.bin", data)
    head = (
        f"--{boundary}\r\nContent-Disposition: form-data; "
        f'name="file"; filename="{form.name}"\r\n\r\n'
    )
    body = head.encode() + data + f"\r\n--{boundary}--\r\n".encode()

    async def main() -> None:
        kind = f"multipart/form-data; boundary={boundary}"
        assert await sent("POST", "/upload", body, kind) == (
            200,
            b"form.bin https://far.example/form.bin",
        )
        assert (await sent("POST", "/pieces", data, "application/octet-stream"))[0] == 200
        await storage.await_transferred(timeout=30)
        for name in ("form.bin", "pieces.bin"):
            await sync_to_async(disk().delete)(name)
            await QueuedFile.objects.filter(name=name).aupdate(is_local=False)
            assert await sent("GET", f"/{name}") == (200, data)

    async_to_sync(main)()
    assert read(storage.remote, "form.bin") == read(storage.remote, "pieces.bin") == data
    assert row(storage, "form.bin").is_remote
