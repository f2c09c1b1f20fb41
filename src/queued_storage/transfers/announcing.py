"""Tells that a remote was closed or opened: by a signal, and by one line in the log."""

from ..ledger.availability import Availability, availability_of, what_to_do, what_waits
from ..ledger.copy_counts import waiting_for
from ..ledger.remotes import Remote, RemoteState
from ..ledger.sql.clock import seconds_between
from ..reporting.counts import about
from ..reporting.logs import logger
from ..signals import remote_changed

CLOSED: dict[str, str] = {
    RemoteState.AWAY: "is away",
    RemoteState.REFUSED: "refuses files",
    RemoteState.PAUSED: "was paused",
}


def announce(storage: object, remote: Remote, before: Remote | None = None) -> None:
    """Send ``remote_changed``, and log that the remote was closed or opened.

    ``remote`` is the row as it is now, ``before`` as it was until then, which an opening needs to
    say how long it was closed. The log has one line when it is closed and one when it opens, so a
    remote that is away and then refuses files is not logged again. ``storage`` may be None if this
    process has none of this alias.
    """
    remote_changed.send_robust(
        sender=None if storage is None else type(storage),
        alias=remote.alias,
        place=remote.place,
        state=remote.state,
        error=remote.last_error,
    )
    if remote.is_open:
        _log(_opening(remote, before), remote)
    elif before is None or before.is_open or remote.state == RemoteState.PAUSED:
        _log(_closing(remote), remote)


def _closing(remote: Remote) -> str:
    verb = CLOSED.get(remote.state, "is closed")
    its = _availability_of(remote)
    text = f"{its.title} {verb}"
    if remote.state == RemoteState.PAUSED:
        return (
            f"{text}. Its files wait until 'manage.py queued_storage remotes resume "
            f"{its.steered_by}' is run."
        )
    error = f": {remote.last_error.rstrip('.')}" if remote.last_error else ""
    return f"{text}{error}. Its files wait until a probe succeeds. {what_to_do(its)}"


def _opening(remote: Remote, before: Remote | None) -> str:
    was_paused = before is not None and before.state == RemoteState.PAUSED
    its = _availability_of(remote)
    text = f"{its.title} was resumed" if was_paused else f"{its.title} works again"
    if before is not None:
        text += f" after {about(seconds_between(before.since, remote.since))}"
    waits = what_waits(its, waiting_for(its))
    return f"{text}. {waits} for it." if waits else f"{text}."


def _availability_of(remote: Remote) -> Availability:
    """Say which remote of its storage it is."""
    known = availability_of(remote.alias, remote.digest)
    return known or Availability(remote.alias, remote.place, remote.state)


def _log(text: str, remote: Remote) -> None:
    # A warning even when it opens: a log that has the beginning of an outage must have its end.
    logger.warning("%s", text, extra={"queued_storage": remote.alias})
