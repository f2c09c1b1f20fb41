from typing import Any

import pytest

from queued_storage.ledger.remotes import Remote, RemoteState
from queued_storage.ledger.sql.clock import seconds_from_now
from queued_storage.signals import remote_changed
from queued_storage.transfers.announcing import announce
from tests.support.outages import close, registered
from tests.support.scripted import file, make

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def storage() -> Any:
    return make()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "remote" in record.getMessage()]


def reopened(storage: Any) -> Remote:
    registered(storage).resume() or registered(storage).reopen()
    found: Remote = registered(storage).get()
    return found


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (RemoteState.AWAY, "is away: ConnectionError: The remote is down. Its files wait until a"),
        (
            RemoteState.REFUSED,
            "refuses files: ConnectionError: The remote is down. Its files",
        ),
        (RemoteState.PAUSED, "was paused. Its files wait until 'manage.py queued_storage remotes"),
    ],
)
def test_closing_is_logged_with_its_reason(
    storage: Any, state: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    remote = close(storage, state)
    announce(storage, remote)
    [line] = lines(caplog)
    assert line.startswith(f"The remote of {storage.alias!r} ({remote.place}) {text}")
    [record] = caplog.records
    assert record.__dict__["queued_storage"] == storage.alias


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (RemoteState.AWAY, "To probe it at once, run"),
        (RemoteState.REFUSED, "Fix the cause, then run"),
    ],
)
def test_closing_names_the_next_command(
    storage: Any, state: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    announce(storage, close(storage, state))
    command = f"'manage.py queued_storage remotes probe {storage.alias}'"
    assert lines(caplog)[0].endswith(f"{text} {command}.")


@pytest.mark.parametrize(
    ("state", "text"),
    [(RemoteState.AWAY, "works again"), (RemoteState.PAUSED, "was resumed")],
)
def test_opening_says_how_long_it_took(
    storage: Any, state: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    storage.save("a.txt", file())
    storage.save("b.txt", file())
    before = close(storage, state, ago=12 * 60 + 5)
    announce(storage, reopened(storage), before)
    [line] = lines(caplog)
    assert line.endswith(f" {text} after 12 minutes. 2 files wait for it.")


def test_another_reason_is_not_logged_again(storage: Any, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []

    def receive(state: str, **kwargs: Any) -> None:
        calls.append(state)

    before = close(storage)
    registered(storage).postpone_probe(RemoteState.REFUSED, "AccessDenied", 60)
    remote_changed.connect(receive)
    try:
        announce(storage, registered(storage).get(), before)
    finally:
        remote_changed.disconnect(receive)
    assert (calls, lines(caplog)) == ([RemoteState.REFUSED], [])


def test_a_receiver_that_fails_stops_nothing(
    storage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def receive(**kwargs: Any) -> None:
        raise RuntimeError("mail server is down")

    remote_changed.connect(receive)
    try:
        announce(storage, close(storage))
    finally:
        remote_changed.disconnect(receive)
    assert len(lines(caplog)) == 1


def test_control_characters_are_escaped(storage: Any, caplog: pytest.LogCaptureFixture) -> None:
    close(storage)
    registered(storage).update(last_error="bad\nline", since=seconds_from_now(0))
    announce(storage, registered(storage).get())
    [line] = lines(caplog)
    assert r"bad\nline" in line
