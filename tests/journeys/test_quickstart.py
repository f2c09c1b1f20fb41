"""The quickstart on a fresh project: each block is run or written as it is printed, in order.

What is replaced is what readers have of their own: the directory, the ports, and Amazon, by the
setting of the endpoint only.
"""

import contextlib
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.conftest import ROOT
from tests.support import nginx, services
from tests.support.services import S3Server
from tests.support.waiting import until
from tests.test_docs import FENCED, page, section

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]

PAGE = "quickstart"
EXPORTS = dict(re.findall(r"^export (\w+)=(\S+)$", page(PAGE), re.M))
PYTHON = Path(sys.executable)
DIRECTORY = "/srv/mysite"  # of the project in production
HOST = "mysite.example"
SAVE = """
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
print(default_storage.url(default_storage.save({name!r}, ContentFile(b"New"))))
"""
# Django 6.1 reports a new project's own setting as an error.
MAIL = """
MAILERS = {"default": {"BACKEND": "django.core.mail.backends.smtp.EmailBackend"}}
"""
URL = """
from django.core.files.storage import default_storage
print(default_storage.url({name!r}))
"""


class Amazon(S3Server):
    """A server that knows the keys of the page."""

    ACCESS_KEY = EXPORTS["AWS_ACCESS_KEY_ID"]
    SECRET_KEY = EXPORTS["AWS_SECRET_ACCESS_KEY"]


class Reader:
    """Somebody who does what the page says."""

    def __init__(self, place: Path, server: S3Server, spawn: Callable[..., Any]) -> None:
        self.place = place
        self.spawn = spawn
        foreign = ("AWS_", "DJANGO_", "QUEUED_STORAGE_")
        given = {name: text for name, text in os.environ.items() if not name.startswith(foreign)}
        self.environment = given | {
            "AWS_ENDPOINT_URL_S3": server.endpoint_url,
            "AWS_EC2_METADATA_DISABLED": "true",
            "PATH": f"{PYTHON.parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "src"),
            "PYTHONUNBUFFERED": "1",
        }
        self.done: list[str] = []  # the blocks

    def blocks(self, heading: str, language: str) -> list[str]:
        found = [code for name, code in FENCED.findall(section(PAGE, heading)) if name == language]
        self.done += found
        return found

    def type_commands(self, heading: str) -> str:
        """Run the commands of a section; return their output."""
        output = ""
        for line in "".join(self.blocks(heading, "")).splitlines():
            word, *others = shlex.split(line)
            if word == "pip":
                continue  # the package is installed
            if word == "export":
                self.environment |= dict(each.split("=", 1) for each in others)
            elif word == "cd":
                self.place /= others[0]
            else:
                output += self.run(line)
        return output

    def write_code(self, heading: str) -> None:
        """Add the code of a section to the files that its first line names."""
        for code in self.blocks(heading, "python"):
            file, text = re.fullmatch(r"# (\S+)\n(.*)", code, re.S).groups()  # type: ignore[union-attr]  # or it fails
            with (self.place / file).open("a") as opened:
                opened.write(f"\n{text}")

    def type_into_shell(self, code: str) -> str:
        """Type code into ``python manage.py shell``; return what the terminal shows."""
        terminal, of_process = pty.openpty()  # only there, the shell shows values
        command = [str(PYTHON), "manage.py", "shell"]
        streams = {"stdin": of_process, "stdout": of_process, "stderr": of_process}
        process = self.spawn(
            command, cwd=self.place, env=self.environment | {"TERM": "dumb"}, **streams
        )
        os.close(of_process)
        os.write(terminal, f"{code}exit()\n".encode())
        shown = b""
        with contextlib.suppress(OSError):  # Linux says so that the process has ended
            while piece := os.read(terminal, 10_000):
                shown += piece
        os.close(terminal)
        assert process.wait(60) == 0, shown.decode()
        return shown.decode()

    def run(self, command: str) -> str:
        done = subprocess.run(
            command,
            shell=True,
            cwd=self.place,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=90,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        return done.stdout

    def in_shell(self, code: str) -> str:
        return self.run(f"python manage.py shell -v 0 -c {shlex.quote(code)}").strip()

    def replaced(self, text: str) -> str:
        text = re.sub(rf"({DIRECTORY}/)?\.venv/bin/python", str(PYTHON), text)
        return text.replace(DIRECTORY, str(self.place))

    def serve(self) -> int:
        """Start Django's server; return its port."""
        [port] = services.free_ports(1)
        command = [str(PYTHON), "manage.py", "runserver", "--noreload", str(port)]
        process = self.spawn(command, cwd=self.place, env=self.environment)
        wait_for(process, port)
        return port


@pytest.fixture
def reader(tmp_path: Path, spawn: Callable[..., Any]) -> Iterator[Reader]:
    services.require("s3")
    with Amazon() as server:
        yield Reader(tmp_path, server, spawn)


def wait_for(process: subprocess.Popen[Any], port: int) -> None:
    def is_up() -> bool:
        assert process.poll() is None
        return not services.is_free(port)

    until(is_up, 60)


def get(url: str, host: str | None = None) -> tuple[int, bytes]:
    try:
        answer: Any = urlopen(Request(url, headers={"Host": host} if host else {}), timeout=30)
    except HTTPError as error:
        answer = error
    with answer:
        return answer.status, answer.read()


@pytest.mark.timeout(600)
def test_quickstart(reader: Reader) -> None:
    development(reader)
    production(reader)
    worker(reader)
    [server] = reader.blocks("Go to production", "nginx")
    assert sorted(reader.done) == sorted(
        code for name, code in FENCED.findall(page(PAGE)) if name != "{important}"
    )
    web_server(reader, server)  # at last, since it is skipped where there is no nginx


def development(reader: Reader) -> None:
    reader.type_commands("Install the package")
    assert (reader.place / "manage.py").exists()
    reader.type_commands("Create the bucket")
    reader.write_code("Configure the storages")
    reader.write_code("Serve the local copies")
    checked = reader.type_commands("Check the configuration")
    assert "System check identified no issues (0 silenced)." in checked
    assert "Applying queued_storage.0001_initial... OK" in checked
    assert "clean-up: complete" in checked

    [code] = reader.blocks("Save your first file", "python")
    local, remote = re.findall(r"'((?:/|http)[^']+)'", reader.type_into_shell(code))
    assert local == "/media/hello.txt"
    assert "/mysite-media/hello.txt?X-Amz-" in remote
    assert get(remote) == (200, b"Hello")
    status = reader.type_commands("Save your first file")
    assert re.search(r"^\s*default\s.*\btransferred\s+1\b", status, re.M | re.I), status
    assert get(f"http://127.0.0.1:{reader.serve()}/media/hello.txt") == (200, b"Hello")


def production(reader: Reader) -> None:
    reader.write_code("Go to production")
    with (reader.place / "mysite" / "settings.py").open("a") as file:
        file.write(MAIL)
    checked = reader.type_commands("Go to production")
    assert "queued_storage" not in checked, checked


def web_server(reader: Reader, server: str) -> None:
    url = f"http://127.0.0.1:{start_nginx(reader, server)}"
    assert get(f"{url}/admin/login/", HOST)[0] == 200
    assert reader.in_shell(SAVE.format(name="new.txt")) == "/media/new.txt"
    assert get(f"{url}/media/new.txt", HOST) == (200, b"New")
    assert (reader.place / "media" / ".queued-storage").exists()
    assert get(f"{url}/media/.queued-storage", HOST)[0] == 404


def start_nginx(reader: Reader, server: str) -> int:
    def block(port: int) -> str:
        text = reader.replaced(server)
        changes = ("listen 80", f"listen 127.0.0.1:{port}"), (":8000", f":{reader.serve()}")
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        return text

    return nginx.start(reader.place.parent, reader.spawn, block)


def worker(reader: Reader) -> None:
    [unit] = reader.blocks("Run a worker as a service", "ini")
    verify(reader, unit)
    assert reader.in_shell(SAVE.format(name="first.txt")) == "/media/first.txt"
    lines = dict(re.findall(r"^(\w+)=(.*)$", reader.replaced(unit), re.M))
    variables = {name: reader.environment[name] for name in [*EXPORTS, "AWS_ENDPOINT_URL_S3"]}
    process = reader.spawn(
        shlex.split(lines["ExecStart"]),
        cwd=lines["WorkingDirectory"],
        env=variables | {"PYTHONPATH": reader.environment["PYTHONPATH"]},
    )

    def is_transferred(name: str) -> bool:
        assert process.poll() is None
        return reader.in_shell(URL.format(name=name)).startswith("http")

    until(lambda: is_transferred("first.txt"), 60)
    assert get(reader.in_shell(URL.format(name="first.txt"))) == (200, b"New")
    process.send_signal(signal.SIGTERM)
    assert process.wait(int(lines["TimeoutStopSec"])) == 0

    [line] = reader.blocks("Run a worker as a service", "")
    assert reader.in_shell(SAVE.format(name="later.txt")) == "/media/later.txt"
    reader.run(reader.replaced(line.removeprefix("*/5 * * * *")))
    assert reader.in_shell(URL.format(name="later.txt")).startswith("http")


def verify(reader: Reader, unit: str) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        return  # the unit is run in any case
    name = re.match(r"# .*/([\w-]+\.service)\n", unit)
    assert name
    file = reader.place.parent / name[1]
    file.write_text(reader.replaced(unit))
    reader.run(f"{program} verify {file}")
