"""Tells that a remote was closed or opened: by a signal, and by one line in the log."""

from ..ledger.remotes import Remote
from ..reporting.logs import logger
from ..signals import remote_changed


def announce(storage: object, remote: Remote, before: Remote | None = None) -> None:
    """Send ``remote_changed``, and log that the remote was closed or opened."""
    remote_changed.send_robust(
        sender=None if storage is None else type(storage),
        alias=remote.alias,
        place=remote.place,
        state=remote.state,
        error=remote.last_error,
    )
    logger.warning("The remote of %r is %s. %s", remote.alias, remote.state, remote.last_error)
