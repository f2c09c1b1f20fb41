"""Whose fault the errors of real libraries and servers are."""

import contextlib
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from unittest import mock

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import Storage

from queued_storage.files.streams import MeasuredFile
from queued_storage.remotes import faults
from queued_storage.remotes.classes import dotted_path
from queued_storage.remotes.fault_kinds import SMALL
from queued_storage.remotes.faults import Fault
from queued_storage.remotes.perthread import for_threads
from queued_storage.uploaders import uploader_for
from tests.ecosystem.remotes.servers import Make, azure, ftp, google, sftp
from tests.ecosystem.remotes.test_remotes import names_on
from tests.support.fault_proxy import FaultProxy, Mode
from tests.support.services import free_ports

MakeAt = Callable[[int], Storage]  # creates a storage whose server is at this port


def fault_of_upload(storage: Storage, size: int = 4) -> Fault:
    uploader = uploader_for(for_threads(storage))
    content = MeasuredFile(ContentFile(b"x" * size), "a.bin")
    with pytest.raises(Exception) as caught:  # noqa: PT011
        uploader.upload("a.bin", content)
    return uploader.diagnose(caught.value, size).fault


def fault_of_probe(storage: Storage) -> Fault:
    uploader = uploader_for(for_threads(storage))
    with pytest.raises(Exception) as caught:  # noqa: PT011
        uploader.write_probe()
    return uploader.diagnose(caught.value, 100).fault


def azure_at(make: Make, port: int = 0, **changes: str) -> Any:
    """A storage without the retries of its library, which take a minute."""
    from azure.storage.blob import BlobServiceClient
    from storages.backends.azure_storage import AzureStorage

    parts = dict(part.split("=", 1) for part in make().connection_string.strip(";").split(";"))  # type: ignore[attr-defined]
    if port:
        parts["BlobEndpoint"] = f"http://127.0.0.1:{port}/devstoreaccount1"
    text = ";".join(f"{key}={value}" for key, value in (parts | changes).items())
    storage = AzureStorage(connection_string=text, azure_container="media")
    storage._service_client = BlobServiceClient.from_connection_string(
        text, retry_total=0, connection_timeout=1, read_timeout=0.5
    )
    return storage


def ftp_at(make: Make, port: int) -> Any:
    from storages.backends.ftp import FTPStorage

    return FTPStorage(location=f"ftp://user:password@127.0.0.1:{port}/", encoding="utf-8")


def sftp_at(host: str, port: int) -> Any:
    from storages.backends.sftpstorage import SFTPStorage

    params = {"username": "user", "password": "password", "port": port, "allow_agent": False}
    params |= {"timeout": 1, "banner_timeout": 1, "look_for_keys": False}
    return SFTPStorage(host=host, params=params, known_host_file=os.devnull)


def sftp_with(make: Make, **params: Any) -> Any:
    storage: Any = make()
    storage.params = storage.params | params
    return storage


@contextlib.contextmanager
def google_at(port: int) -> Iterator[Storage]:
    """A storage without the retries of its library, which take two minutes."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.storage.retry import DEFAULT_RETRY
    from storages.backends.gcloud import GoogleCloudStorage

    with (
        mock.patch.dict(os.environ, {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}"}),
        mock.patch.object(DEFAULT_RETRY, "_timeout", 0),
    ):
        credentials = AnonymousCredentials()  # type: ignore[no-untyped-call]
        yield GoogleCloudStorage(bucket_name="media", project_id="any", credentials=credentials)


@contextlib.contextmanager
def closing_server() -> Iterator[int]:
    """A port that accepts connections and closes them at once."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            with contextlib.suppress(OSError):
                while True:
                    server.accept()[0].close()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.fixture
def closed_port() -> int:
    [port] = free_ports(1)
    return port


@pytest.fixture(scope="module")
def azure_server() -> Iterator[Make]:
    with azure() as make:
        yield make


@pytest.fixture(scope="module")
def sftp_server() -> Iterator[Make]:
    with sftp() as make:
        yield make


@pytest.fixture(scope="module")
def ftp_server() -> Iterator[Make]:
    with ftp() as make:
        yield make


def test_probe_leaves_nothing(remote: tuple[str, Make]) -> None:
    _name, make = remote
    uploader_for(for_threads(make())).write_probe()
    assert names_on(make) == []


def test_rules_name_existing_classes() -> None:
    missing = {top for path in faults.RULES if not find_spec(top := path.partition(".")[0])}
    assert missing <= {"aiohttp", "httpx"}  # known, though none of these storages uses them
    for path in faults.RULES:
        module, _dot, name = path.rpartition(".")
        if path.partition(".")[0] not in missing:
            assert dotted_path(getattr(import_module(module), name)) == path


class TestAzure:
    def test_no_server(self, azure_server: Make, closed_port: int) -> None:
        assert fault_of_upload(azure_at(azure_server, closed_port)) is Fault.AWAY
        assert fault_of_probe(azure_at(azure_server, closed_port)) is Fault.AWAY

    def test_no_such_host(self, azure_server: Make) -> None:
        host = "http://azure.invalid/devstoreaccount1"
        assert fault_of_upload(azure_at(azure_server, BlobEndpoint=host)) is Fault.AWAY

    def test_server_closes_the_connection(self, azure_server: Make) -> None:
        with closing_server() as port:
            assert fault_of_upload(azure_at(azure_server, port)) is Fault.AWAY

    @pytest.mark.parametrize("size", [4, SMALL + 1])
    def test_server_hangs(self, azure_server: Make, size: int) -> None:
        with FaultProxy(1) as proxy:
            proxy.mode = Mode.HANG
            expected = Fault.AWAY if size <= SMALL else Fault.UNCLEAR
            assert fault_of_upload(azure_at(azure_server, proxy.port), size) is expected

    def test_server_is_busy(self, azure_server: Make) -> None:
        [endpoint] = re.findall(r"127\.0\.0\.1:(\d+)", azure_server().connection_string)  # type: ignore[attr-defined]
        with FaultProxy(int(endpoint)) as proxy:
            proxy.mode = Mode.STATUS_503
            assert fault_of_upload(azure_at(azure_server, proxy.port)) is Fault.AWAY
            assert proxy.requests

    def test_wrong_key(self, azure_server: Make) -> None:
        assert fault_of_upload(azure_at(azure_server, AccountKey="d3Jvbmc=")) is Fault.REFUSED
        assert fault_of_probe(azure_at(azure_server, AccountKey="d3Jvbmc=")) is Fault.REFUSED

    def test_missing_container(self, azure_server: Make) -> None:
        storage = azure_at(azure_server)
        storage.azure_container = "missing"
        assert fault_of_upload(storage) is Fault.REFUSED


class TestGoogle:
    def test_no_server(self, closed_port: int) -> None:
        with google_at(closed_port) as storage:
            assert fault_of_upload(storage) is Fault.AWAY
            assert fault_of_probe(storage) is Fault.AWAY

    def test_server_closes_the_connection(self) -> None:
        with closing_server() as port, google_at(port) as storage:
            assert fault_of_upload(storage) is Fault.AWAY

    def test_missing_bucket_is_unclear(self) -> None:
        with google() as make:
            storage: Any = make()
            storage.bucket_name = "missing"
            assert fault_of_upload(storage) is Fault.UNCLEAR


class TestSFTP:
    def test_no_server(self, closed_port: int) -> None:
        assert fault_of_upload(sftp_at("127.0.0.1", closed_port)) is Fault.AWAY
        assert fault_of_probe(sftp_at("127.0.0.1", closed_port)) is Fault.AWAY

    def test_no_such_host(self) -> None:
        assert fault_of_upload(sftp_at("sftp.invalid", 22)) is Fault.AWAY

    def test_server_closes_the_connection(self) -> None:
        with closing_server() as port:
            assert fault_of_upload(sftp_at("127.0.0.1", port)) is Fault.AWAY

    def test_server_hangs(self) -> None:
        with FaultProxy(1) as proxy:
            proxy.mode = Mode.HANG
            assert fault_of_upload(sftp_at("127.0.0.1", proxy.port)) is Fault.AWAY

    def test_wrong_key(self, sftp_server: Make) -> None:
        import paramiko

        assert (
            fault_of_upload(sftp_with(sftp_server, pkey=paramiko.RSAKey.generate(2048)))
            is Fault.REFUSED
        )

    def test_no_key(self, sftp_server: Make) -> None:
        assert fault_of_upload(sftp_with(sftp_server, pkey=None)) is Fault.REFUSED

    def test_directory_that_is_a_file(self, sftp_server: Make) -> None:
        storage = sftp_server()
        storage.save("taken", ContentFile(b"x"))
        uploader = uploader_for(storage)
        content = MeasuredFile(ContentFile(b"x"), "a.bin")
        with pytest.raises(OSError) as caught:  # noqa: PT011
            uploader.upload("taken/a.bin", content)
        assert uploader.diagnose(caught.value, 1).fault is Fault.UNCLEAR


class TestFTP:
    def test_no_server(self, ftp_server: Make, closed_port: int) -> None:
        assert fault_of_upload(ftp_at(ftp_server, closed_port)) is Fault.AWAY
        assert fault_of_probe(ftp_at(ftp_server, closed_port)) is Fault.AWAY

    def test_server_closes_the_connection(self, ftp_server: Make) -> None:
        with closing_server() as port:
            assert fault_of_upload(ftp_at(ftp_server, port)) is Fault.AWAY

    def test_wrong_password(self, ftp_server: Make) -> None:
        from storages.backends.ftp import FTPStorage

        location: Any = ftp_server()
        storage = FTPStorage(location=location.location.replace(":password@", ":wrong@"))
        assert fault_of_upload(storage) is Fault.REFUSED
        assert fault_of_probe(storage) is Fault.REFUSED

    def test_directory_that_is_a_file(self, ftp_server: Make) -> None:
        storage = ftp_server()
        storage.save("taken", ContentFile(b"x"))
        uploader = uploader_for(storage)
        content = MeasuredFile(ContentFile(b"x"), "a.bin")
        with pytest.raises(Exception, match="Cannot create directory") as caught:
            uploader.upload("taken/a.bin", content)
        assert uploader.diagnose(caught.value, 1).fault is Fault.UNCLEAR
