"""Outages of every kind, with a real S3 server behind a proxy that can answer in its place.

The files are uploaded by the threads of this process, one at a time, so that their order is known.
"""

import itertools
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from botocore.client import BaseClient
from django.core.files.storage import storages
from django.core.management import call_command
from pytest_django import Settings

from queued_storage.ledger.database import ledger
from queued_storage.ledger.names import PROBE_NAME
from queued_storage.ledger.remotes import Remote, RemoteState, remotes
from queued_storage.ledger.states import State
from tests.support.forks import forks
from tests.support.scripted import file, make
from tests.support.scripted_proxy import NEVER, Answer, Request, ScriptedProxy
from tests.support.services import S3Server
from tests.support.waiting import SOON, until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.one_lane,
]

FILES = 8  # more than failures that raise a suspicion
PROBE_EVERY = 0.05
REFUSED_EVERY = 10 * PROBE_EVERY
CLOCK = 0.002  # seconds by which the database's clock and that of the proxy differ
SHORT = {"RETRIES": 2, "RETRY_DELAY": 0.01, "RETRY_MAX_DELAY": 0.02, "PROBE_EVERY": PROBE_EVERY}
ONE_THREAD = {
    "BACKEND": "queued_storage.queues.threads.ThreadQueue",
    "OPTIONS": {"threads": 1, "poll": 0.05},
}
WORKER = "queued_storage.queues.worker.WorkerQueue"

Options = dict[str, Any]
Configure = Callable[..., None]


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[ScriptedProxy]:
    with ScriptedProxy(s3_server) as scripted:
        yield scripted


@pytest.fixture
def configure(
    settings: Settings, s3_server: S3Server, s3_bucket: str, proxy: ScriptedProxy
) -> Configure:
    """Let the remote be the bucket behind the proxy, but for these options."""

    def use(**changes: Any) -> None:
        options = s3_server.options(s3_bucket, proxy.endpoint_url) | changes
        far = {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": options}
        settings.STORAGES = settings.STORAGES | {"far": far}

    use()
    settings.QUEUED_STORAGE = {**SHORT, "QUEUE": ONE_THREAD}
    return use


# What happens in an outage


def save(count: int = FILES, directory: str = "uploads") -> None:
    for number in range(count):
        storages["default"].save(f"{directory}/{number:02}.txt", file())


def remote() -> Remote:
    return remotes().filter(alias="default").latest("pk")


def is_closed() -> bool:
    return remotes().closed().exists()


def is_transferred(count: int) -> bool:
    return ledger().filter(alias="default", state=State.TRANSFERRED).count() == count


def closed(state: str, words: str, *, probes: int = 2) -> Remote:
    """Wait until so many probes have failed; return the remote, which must be closed like that."""
    until(lambda: is_closed() and remote().probes >= probes)
    found = remote()
    assert found.state == state, (found.last_error, found.probes)
    assert words in found.last_error
    assert not ledger().filter(state=State.FAILED).exists()
    return found


def require_probes_only(log: list[Request], since: datetime, pause: float) -> None:
    """Require that nothing but probes was sent to a closed remote, with pauses between them.

    A probe is a write of our own, or a file, or both.
    """
    sent = [request for request in log if request.at > since]
    own = [request.at for request in sent if is_own_write(request)]
    files = [request.at for request in sent if is_attempt(request)]
    assert own
    assert sum(request.method == "PUT" for request in sent) <= len(own) + len(files)
    for times in (own, files):
        require_pauses(times, pause)
        require_pauses([since, *times[:1]], PROBE_EVERY)


def is_own_write(request: Request) -> bool:
    return (request.method, request.key) == ("PUT", PROBE_NAME)


def is_attempt(request: Request) -> bool:
    """Whether an attempt to upload a file begins."""
    return request.method == "HEAD" and request.key not in ("", PROBE_NAME)


def require_pauses(times: list[datetime], pause: float) -> None:
    for before, after in itertools.pairwise(times):
        assert after - before >= timedelta(seconds=pause - CLOCK)


def all_transferred(count: int = FILES, *, but_first: int = 0) -> None:
    """Wait until all files are uploaded, oldest first but for one that may have been a probe."""
    until(partial(is_transferred, count))
    assert set(ledger().values_list("attempts", flat=True)) == {1}
    rows = ledger().filter(alias="default").order_by("transferred_at", "pk")
    order = list(rows.values_list("pk", flat=True))
    assert order[but_first:] == sorted(order[but_first:])


# Refused


def test_unknown_access_key(configure: Configure, proxy: ScriptedProxy) -> None:
    configure(access_key="unknown")
    save()
    found = closed(RemoteState.REFUSED, "InvalidAccessKeyId")
    require_probes_only(list(proxy.log), found.since, REFUSED_EVERY)
    configure()
    all_transferred(but_first=1)


def work() -> None:
    call_command("queued_storage", "worker", poll=0.1, threads=1)


def test_wrong_secret_key_of_two_workers(
    configure: Configure,
    settings: Settings,
    child_environment: dict[str, str],
    proxy: ScriptedProxy,
) -> None:
    """They are restarted with the right one."""
    settings.QUEUED_STORAGE = {**SHORT, "QUEUE": WORKER}
    # The configuration of a client cannot be passed to other processes.
    in_child = {"client_config": None, "addressing_style": "path"}
    configure(secret_key="wrong", **in_child)
    save()
    with forks(child_environment, settings) as processes:
        processes.start(work)
        until(is_closed)
        processes.start(work)
        found = closed(RemoteState.REFUSED, "SignatureDoesNotMatch", probes=3)
        require_probes_only(list(proxy.log), found.since, REFUSED_EVERY)
    configure(**in_child)
    with forks(child_environment, settings) as processes:
        processes.start(work)
        all_transferred(but_first=1)


def test_missing_bucket(
    configure: Configure, proxy: ScriptedProxy, s3_client: BaseClient, s3_bucket: str
) -> None:
    s3_client.delete_bucket(Bucket=s3_bucket)
    save()
    found = closed(RemoteState.REFUSED, "NoSuchBucket")
    require_probes_only(list(proxy.log), found.since, REFUSED_EVERY)
    s3_client.create_bucket(Bucket=s3_bucket)
    all_transferred(but_first=1)


def test_full(configure: Configure, proxy: ScriptedProxy) -> None:
    """As Ceph says it, and as others do."""
    full = Answer(403, "QuotaExceeded")
    proxy.follow(lambda request: full if request.method == "PUT" else Answer(507))
    save()
    found = closed(RemoteState.REFUSED, "QuotaExceeded")
    require_probes_only(list(proxy.log), found.since, REFUSED_EVERY)
    proxy.follow(None)
    all_transferred(but_first=1)


# Away


def test_slow_down_for_a_while(configure: Configure, proxy: ScriptedProxy) -> None:
    asked = 10 * PROBE_EVERY
    proxy.follow(lambda request: Answer(503, "SlowDown", {"Retry-After": str(asked)}))
    save()
    found = closed(RemoteState.AWAY, "SlowDown")
    require_probes_only(list(proxy.log), found.since, asked)
    proxy.follow(None)
    all_transferred()


def test_host_name_without_an_address(configure: Configure, proxy: ScriptedProxy) -> None:
    configure(endpoint_url="http://nowhere.invalid:9000")
    save()
    closed(RemoteState.AWAY, "nowhere.invalid")
    assert proxy.log == []
    configure()
    all_transferred()


def test_server_that_hangs(configure: Configure, proxy: ScriptedProxy, s3_server: S3Server) -> None:
    configure(client_config=s3_server.client_config(connect_timeout=1, read_timeout=1))
    proxy.follow(lambda request: NEVER)
    queued: Any = storages["default"]
    other = make(queue=queued.queue)
    save()
    name = other.save("other.txt", file())
    until(lambda: other.using_remote(name))  # of the same process
    found = closed(RemoteState.AWAY, "ReadTimeoutError", probes=1)
    require_probes_only(list(proxy.log), found.since, PROBE_EVERY)
    until(lambda: not ledger().exclude(lease_token="").exists(), SOON)  # no thread hangs
    proxy.follow(None)
    all_transferred()


def test_every_second_request_fails(
    configure: Configure, proxy: ScriptedProxy, changes: list[str], s3_server: S3Server
) -> None:
    """boto3 repeats a request, but probes are not repeated."""
    configure(client_config=s3_server.client_config(retries={"total_max_attempts": 3}))
    turns = itertools.cycle([Answer(500, "InternalError"), None])
    proxy.follow(lambda request: next(turns))
    save(2 * FILES)
    until(partial(is_transferred, 2 * FILES))
    assert len(changes) <= 4
    assert set(ledger().values_list("state", "attempts")) == {(State.TRANSFERRED, 1)}


# A key that may write files, but not our own probe


def test_key_for_one_directory(
    configure: Configure, proxy: ScriptedProxy, changes: list[str], s3_server: S3Server
) -> None:
    configure(access_key=s3_server.LIMITED_KEY, secret_key=s3_server.LIMITED_SECRET)
    save()
    all_transferred()
    assert changes == []
    for number, is_known in enumerate([False, True], start=2):
        proxy.follow(lambda request: Answer(503, "ServiceUnavailable"))
        save(directory=f"uploads/{number}")
        found = closed(RemoteState.AWAY, "ServiceUnavailable")
        assert found.is_probed_by_files == is_known
        require_probes_only(list(proxy.log), found.since, PROBE_EVERY)
        proxy.follow(None)
        until(partial(is_transferred, number * FILES))
    assert changes == ["away", "open"] * 2
    assert remote().is_probed_by_files


def test_few_files_of_such_a_key(
    configure: Configure, proxy: ScriptedProxy, changes: list[str], s3_server: S3Server
) -> None:
    """They are fewer than those that decide where our own write is denied."""
    configure(access_key=s3_server.LIMITED_KEY, secret_key=s3_server.LIMITED_SECRET)
    save(2, "uploads/before")
    until(partial(is_transferred, 2))
    remotes().update(is_probed_by_files=True)
    proxy.follow(lambda request: Answer(503, "ServiceUnavailable"))
    save(2, "uploads/after")
    found = closed(RemoteState.AWAY, "ServiceUnavailable")
    require_probes_only(list(proxy.log), found.since, PROBE_EVERY)
    proxy.follow(None)
    until(partial(is_transferred, 4))
    assert changes == ["away", "open"]
    assert set(ledger().values_list("attempts", flat=True)) == {1}
