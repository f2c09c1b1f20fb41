"""Real servers on free loopback ports, each with a storage of django-storages that uses it."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from django.core.files.storage import FileSystemStorage, InMemoryStorage, Storage

from tests.ecosystem.remotes.renaming import RenamingStorage
from tests.support.services import S3Server, ServiceMissing, free_ports, is_free, kill_group, spawn

BIN = Path(sys.executable).parent
AZURITE = BIN.parent / "node" / "node_modules" / ".bin" / "azurite-blob"
SSHD = shutil.which("sshd", path=f"/usr/sbin:/usr/local/sbin:{os.environ.get('PATH', '')}")
TIMEOUT = 60  # seconds for a server to start

Make = Callable[[], Storage]  # creates another storage of the same files, as another process does


def missing(message: str) -> Exception:
    if os.environ.get("QUEUED_STORAGE_TEST_REQUIRE_SERVICES") == "1":
        return ServiceMissing(message)
    return unittest.SkipTest(message)


@contextlib.contextmanager
def running(args: list[Any], port: int, directory: Path, **environment: str) -> Iterator[None]:
    """Run a server until the end of the block, which starts once it accepts connections."""
    with (directory / "log").open("wb") as log:
        process = spawn(
            [str(arg) for arg in args],
            cwd=directory,
            env=os.environ | {"HOME": str(directory)} | environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + TIMEOUT
        while is_free(port) or not answers(port):
            said = (directory / "log").read_text(errors="replace")
            if process.poll() is not None:
                raise RuntimeError(f"{args[0]} ended:\n{said}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{args[0]} does not answer:\n{said}")
            time.sleep(0.05)
        yield
    finally:
        kill_group(process)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="remotes-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def disk() -> Iterator[Make]:
    with scratch() as directory:
        yield lambda: FileSystemStorage(directory, "https://far.example/")


@contextlib.contextmanager
def memory() -> Iterator[Make]:
    storage = InMemoryStorage(base_url="https://far.example/")
    yield lambda: storage


@contextlib.contextmanager
def renaming() -> Iterator[Make]:
    storage = RenamingStorage()
    yield lambda: storage


@contextlib.contextmanager
def s3() -> Iterator[Make]:
    from storages.backends.s3 import S3Storage

    with S3Server() as server:
        server.client().create_bucket(Bucket="media")
        yield lambda: S3Storage(**server.options("media"))


@contextlib.contextmanager
def azure() -> Iterator[Make]:
    from azure.storage.blob import BlobServiceClient
    from storages.backends.azure_storage import AzureStorage

    if not AZURITE.exists():
        raise missing("no Azurite: make ecosystem installs it where there is npm")
    [port] = free_ports(1)
    # The default account of Azurite, as documented
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    connection = (
        f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={key};"
        f"BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;"
    )
    command = [AZURITE, "--silent", "--skipApiVersionCheck", "--inMemoryPersistence"]
    command += ["--disableTelemetry", "--blobHost", "127.0.0.1", "--blobPort", port]
    with scratch() as directory, running(command, port, directory):
        BlobServiceClient.from_connection_string(connection).create_container("media")
        yield lambda: AzureStorage(
            connection_string=connection, azure_container="media", expiration_secs=3600
        )


@contextlib.contextmanager
def google() -> Iterator[Make]:
    from storages.backends.gcloud import GoogleCloudStorage

    [port] = free_ports(1)
    command = [BIN / "gcp-storage-emulator", "start", "--host=127.0.0.1", f"--port={port}"]
    command += ["--in-memory", "--default-bucket=media"]
    emulator = {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}"}
    with (
        scratch() as directory,
        running(command, port, directory),
        mock.patch.dict(os.environ, emulator),
    ):
        credentials = signing_credentials()
        yield lambda: GoogleCloudStorage(
            bucket_name="media", project_id="any", credentials=credentials
        )


def signing_credentials() -> Any:
    """Return credentials that only sign URLs. The emulator does not check any."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
    from google.auth.credentials import AnonymousCredentials, Signing

    key = rsa.generate_private_key(65537, 2048)

    class Credentials(AnonymousCredentials, Signing):  # type: ignore[misc]
        signer_email = "tests@any.example"
        signer = None

        def sign_bytes(self, message: bytes) -> bytes:
            return key.sign(message, padding.PKCS1v15(), hashes.SHA256())

    return Credentials()


@contextlib.contextmanager
def sftp() -> Iterator[Make]:
    import paramiko
    from storages.backends.sftpstorage import SFTPStorage

    if not SSHD:
        raise missing("no sshd: apt install openssh-server")
    [port] = free_ports(1)
    key = paramiko.RSAKey.generate(2048)
    with scratch() as directory:
        paramiko.RSAKey.generate(2048).write_private_key_file(str(directory / "host_key"))
        (directory / "keys").write_text(f"{key.get_name()} {key.get_base64()}\n")
        (directory / "config").write_text(
            f"ListenAddress 127.0.0.1:{port}\nHostKey {directory}/host_key\nPidFile none\n"
            f"AuthorizedKeysFile {directory}/keys\nStrictModes no\nUsePAM no\n"
            f"PasswordAuthentication no\nPermitRootLogin prohibit-password\n"
            f"Subsystem sftp internal-sftp\n"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd requires it
        (directory / "files").mkdir()
        with running([SSHD, "-D", "-e", "-f", directory / "config"], port, directory):
            login = {"username": getpass.getuser(), "pkey": key, "port": port, "timeout": TIMEOUT}
            yield lambda: SFTPStorage(
                host="127.0.0.1",
                params=login | {"allow_agent": False, "look_for_keys": False},
                known_host_file=str(directory / "known_hosts"),
                root_path=str(directory / "files"),
                base_url="https://far.example/",
            )


@contextlib.contextmanager
def ftp(**options: Any) -> Iterator[Make]:
    from storages.backends.ftp import FTPStorage

    [port] = free_ports(1)
    with scratch() as directory:
        (directory / "files").mkdir()
        command = [sys.executable, "-m", "pyftpdlib", "-i", "127.0.0.1", "-p", port, "-w"]
        command += ["-d", directory / "files", "-u", "user", "-P", "password"]
        with running(command, port, directory):
            yield lambda: FTPStorage(
                location=f"ftp://user:password@127.0.0.1:{port}/",
                base_url="https://far.example/",
                encoding="utf-8",
                **options,
            )


SERVERS: dict[str, Callable[[], contextlib.AbstractContextManager[Make]]] = {
    "disk": disk,
    "memory": memory,
    "s3": s3,
    "azure": azure,
    "google": google,
    "sftp": sftp,
    "ftp": ftp,
    "renaming": renaming,
}
