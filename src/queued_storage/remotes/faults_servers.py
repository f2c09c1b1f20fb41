"""Whose fault the errors of SFTP and FTP servers are."""

import re

from .classes import known_of
from .fault_kinds import Case, Fault, Rules
from .layers import itself
from .places import FTP, SFTP

_ONE_CONNECTION = dict.fromkeys((FTP, SFTP), True)
_REPLY = re.compile(r"\s*([45]\d\d)\b")
_REPLIES = {
    "450": Fault.UNCLEAR,  # the file is busy, or with some servers, its directory is missing
    "452": Fault.REFUSED,  # the disk is full
    "530": Fault.REFUSED,  # the login failed
    "532": Fault.REFUSED,  # an account is needed
    "533": Fault.REFUSED,  # the connection must be encrypted
    "534": Fault.REFUSED,
    "552": Fault.REFUSED,  # over the quota
}
# paramiko has no class of its own for these
_SSH_REFUSED = re.compile(r"no authentication methods available|not found in known_hosts", re.I)


def _by_reply(error: Exception, case: Case) -> Fault | None:
    """Sort a reply of an FTP server. Most replies of the class 5 leave the reason open."""
    found = _REPLY.match(str(error))
    if not found:
        return None
    reply = found[1]
    return _REPLIES.get(reply, Fault.AWAY if reply.startswith("4") else Fault.UNCLEAR)


def _by_ssh(error: Exception, case: Case) -> Fault:
    return Fault.REFUSED if _SSH_REFUSED.search(str(error)) else Fault.AWAY


def _by_end(error: Exception, case: Case) -> Fault | None:
    """The end of a connection, unless something else than the server's replies was read."""
    return Fault.AWAY if any(known_of(type(itself(case.remote)), _ONE_CONNECTION)) else None


RULES: Rules = {
    "builtins.EOFError": _by_end,
    "ftplib.Error": _by_reply,
    "paramiko.ssh_exception.AuthenticationException": Fault.REFUSED,
    "paramiko.ssh_exception.BadHostKeyException": Fault.REFUSED,
    "paramiko.ssh_exception.NoValidConnectionsError": Fault.AWAY,
    "paramiko.ssh_exception.ProxyCommandFailure": Fault.AWAY,
    "paramiko.ssh_exception.SSHException": _by_ssh,
}
