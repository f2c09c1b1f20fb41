"""What the log and the commands say of a remote that refuses everything."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.core.files.storage import storages
from pytest_django import Settings

from queued_storage.ledger.copies import CopyState, copies
from queued_storage.ledger.remotes import RemoteState, remotes
from tests.support.command import run, transferred
from tests.support.console import COMMAND, manage
from tests.support.mirroring import Mirrored
from tests.support.scripted import file
from tests.support.services import S3Server, kill_group, spawn
from tests.support.waiting import until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.one_lane,
]

PROBE = "manage.py queued_storage remotes probe default"
WITHIN = 15  # seconds from the start of the process, on a busy machine
WORKER = "queued_storage.queues.worker.WorkerQueue"
WRONG = {
    "secret": ({"secret_key": "a wrong one"}, "SignatureDoesNotMatch", "Check the secret key"),
    "key": ({"access_key": "nobody"}, "InvalidAccessKeyId", "Check the access key"),
    "bucket": ({"bucket_name": "no-such-bucket"}, "NoSuchBucket", "Create the bucket"),
    "endpoint": ({"endpoint_url": "http://127.0.0.1:1"}, "EndpointConnectionError", "127.0.0.1:1"),
}

Configure = Callable[..., dict[str, str]]


@pytest.fixture
def configure(
    settings: Settings, s3_server: S3Server, s3_bucket: str, child_settings: Configure
) -> Configure:
    """Let the remote be a bucket with these options; return the environment of a process."""

    def environment(**wrong: str) -> dict[str, str]:
        # The configuration of a client cannot be passed to other processes.
        options = s3_server.options(s3_bucket) | {"client_config": None} | wrong
        far = {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": options}
        settings.STORAGES = settings.STORAGES | {"far": far}
        settings.QUEUED_STORAGE = {"QUEUE": WORKER}
        return child_settings(STORAGES=settings.STORAGES, QUEUED_STORAGE=settings.QUEUED_STORAGE)

    return environment


@contextlib.contextmanager
def worker(environment: dict[str, str], log: Path) -> Iterator[None]:
    with log.open("wb") as out:
        process = spawn([*COMMAND, "worker"], env=environment, stdout=out, stderr=out)
        try:
            yield
        finally:
            kill_group(process)


@pytest.mark.parametrize("wrong", WRONG)
def test_cause_and_next_command_within_seconds(
    configure: Configure, wrong: str, tmp_path: Path
) -> None:
    options, cause, advice = WRONG[wrong]
    environment = configure(**options)
    for number in range(3):
        storages["default"].save(f"{number}.txt", file())
    log = tmp_path / "log"
    with worker(environment, log):
        until(lambda: "Its files wait" in log.read_text(), timeout=WITHIN)
    [line] = [line for line in log.read_text().splitlines() if "Its files wait" in line]
    status = manage(environment, "status").stdout
    for text in (line, status):
        assert cause in text
        assert advice in text
        assert PROBE in text
    assert "3 files wait" in status
    probed = manage(environment, "remotes", "probe", "default")
    assert probed.returncode == 1
    assert cause in probed.stderr


def test_probe_opens_the_remote_after_the_repair(configure: Configure, tmp_path: Path) -> None:
    environment = configure(secret_key="a wrong one")
    storages["default"].save("a.txt", file())
    with worker(environment, tmp_path / "log"):
        until(lambda: remotes().closed().exists(), timeout=WITHIN)
    assert remotes().get().state == RemoteState.REFUSED
    shown = manage(configure(), "remotes", "probe", "default")
    assert shown.returncode == 0
    assert "works again. 1 file waits for it." in shown.stdout


def test_show_the_copies_on_mirrors(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second")
    transferred(storage, "a.txt")
    copies().update(state=CopyState.FAILED, last_error="OSError: It is full.")
    out = run("show", "a.txt")
    assert "mirror        failed" in out
    assert "OSError: It is full." in out
    [copy] = json.loads(run("show", "a.txt", "--json"))["copies"]
    assert (copy["state"], copy["error"]) == ("failed", "OSError: It is full.")
    assert "a.txt" in run("list", "--error", "it is full")
    assert "1 copy on a mirror will be retried." in run("retry", "--error", "It is full")
