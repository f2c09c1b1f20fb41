"""A clamd of a test, whose only signature is that of the EICAR text."""

import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

from tests.support import services
from tests.support.stepping import EICAR
from tests.support.waiting import until

FOUND = "Eicar-Test.UNOFFICIAL"


class Clamd:
    """The process; it listens on a Unix socket and on a port."""

    def __init__(self, max_bytes: int = 25_000_000) -> None:
        services.require("clamd")
        self._directory = tempfile.TemporaryDirectory(prefix="clamd-")
        base = Path(self._directory.name)
        base.chmod(0o755)
        [self.port] = services.free_ports(1)
        self.socket = base / "socket"
        # Anywhere in a file of any type
        (base / "eicar.ndb").write_text(f"Eicar-Test:0:*:{EICAR.hex()}\n")
        self._configuration = base / "clamd.conf"
        self._configuration.write_text(
            f"LocalSocket {self.socket}\nDatabaseDirectory {base}\nForeground yes\n"
            f"TCPSocket {self.port}\nTCPAddr 127.0.0.1\nStreamMaxLength {max_bytes}\n"
            f"User root\nTemporaryDirectory {base}\nMaxThreads 4\nConcurrentDatabaseReload no\n"
        )
        self.process: subprocess.Popen[Any] | None = None

    @property
    def address(self) -> str:
        return f"unix:{self.socket}"

    def start(self) -> None:
        assert services.CLAMD
        command = [services.CLAMD, "--config-file", str(self._configuration)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = services.spawn(command, **quiet)
        until(self._responds, timeout=60)

    def stop(self) -> None:
        if self.process:
            services.kill_group(self.process)
            self.process = None
            self.socket.unlink(missing_ok=True)

    def _responds(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"zPING\0")
                return connection.recv(10) == b"PONG\0"
        except OSError:
            return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.stop()
        self._directory.cleanup()
