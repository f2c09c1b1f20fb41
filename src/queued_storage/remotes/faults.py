"""Sorts errors by whose fault they are: the remote's, or that of one file."""

import errno
import ssl
from typing import Any, NamedTuple

from django.core.files.storage import Storage

from ..reporting.logs import logger
from ..reporting.reasons import reason
from . import faults_azure, faults_google, faults_http, faults_s3, faults_servers
from .classes import known_of
from .fault_kinds import Case, Fault, Rules, timed_out, with_causes
from .layers import attribute_of

HOOK = "queued_storage_fault"  # the method by which a storage of one's own sorts its errors
ANSWERS = {fault.value: fault for fault in (Fault.AWAY, Fault.REFUSED, Fault.FILE)}


class Diagnosis(NamedTuple):
    """Whose fault an error is, and after how many seconds the remote asks to be called again."""

    fault: Fault
    retry_after: float | None = None


def diagnosis_of(error: BaseException, remote: Storage, size: int | None = None) -> Diagnosis:
    """Return whose fault an error is that a call of the remote raised.

    ``size`` is the number of bytes that were transferred, by which a time-out is judged. No request
    is made, and no error is raised.
    """
    if not isinstance(error, Exception):  # the process ends, or the time limit of a queue
        return Diagnosis(Fault.UNCLEAR)
    if any(known_of(type(error), _OURS)):
        return Diagnosis(Fault.FILE)
    try:
        given = _fault_by_hook(error, remote) or _fault_by_rules(error, Case(remote, size))
        return Diagnosis(given, _retry_after(error) if given is Fault.AWAY else None)
    except Exception as mistake:  # of an attribute of the error
        logger.error("%s cannot be sorted: %s", type(error).__name__, reason(mistake, remote))
        return Diagnosis(Fault.UNCLEAR)


def _fault_by_hook(error: BaseException, remote: Storage) -> Fault | None:
    """Ask the remote itself. Its mistakes are logged, so that they hide no error of a transfer."""
    try:
        hook = attribute_of(remote, HOOK)
        answer = hook(error) if hook else None
    except Exception as mistake:
        logger.error("%s.%s() failed: %s", _name_of(remote), HOOK, reason(mistake, remote))
        return None
    if answer is None:
        return None
    if isinstance(answer, str) and answer in ANSWERS:
        return ANSWERS[answer]
    logger.error(
        "%s.%s() returned %s; return 'away', 'refused', 'file' or None.",
        _name_of(remote),
        HOOK,
        repr(answer)[:80],
    )
    return None


def _name_of(storage: Storage) -> str:
    return type(storage).__qualname__


def _fault_by_rules(error: Exception, case: Case) -> Fault:
    causes = list(with_causes(error))
    found = (fault for each in causes if (fault := _fault_of(each, case)))
    fault = next(found, Fault.UNCLEAR)
    # A certificate that is not trusted stays so until its owner, or this host, gets another one.
    is_untrusted = any(isinstance(each, ssl.SSLCertVerificationError) for each in causes)
    return Fault.REFUSED if fault is Fault.AWAY and is_untrusted else fault


def _fault_of(error: BaseException, case: Case) -> Fault | None:
    for rule in known_of(type(error), RULES):
        fault = rule if isinstance(rule, Fault) else rule(error, case)
        if fault is not None:
            return fault
    return faults_http.by_status(error, case)


def _retry_after(error: BaseException) -> float | None:
    found = map(faults_http.retry_after, with_causes(error))
    return next((seconds for seconds in found if seconds is not None), None)


# By class

_AWAY = (
    *(errno.EADDRNOTAVAIL, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH),
    *(errno.ENOTCONN, errno.EPIPE, errno.ESHUTDOWN, errno.ESTALE, errno.ETIMEDOUT),
)
_ERRNOS = (
    dict.fromkeys(_AWAY, Fault.AWAY)
    | dict.fromkeys((errno.EDQUOT, errno.ENOSPC, errno.EROFS), Fault.REFUSED)
    | dict.fromkeys((errno.EFBIG, errno.EILSEQ, errno.ENAMETOOLONG), Fault.FILE)
)


def _by_errno(error: Any, case: Case) -> Fault | None:
    # Libraries derive errors of their own from OSError, without a number.
    return None if error.errno is None else _ERRNOS.get(error.errno, Fault.UNCLEAR)


def _by_time_out(error: Any, case: Case) -> Fault:
    return Fault.AWAY if error.errno == errno.ETIMEDOUT else timed_out(error, case)


# Errors of this package that the remote has no part in
_OURS = {
    f"queued_storage.exceptions.{name}": Fault.FILE
    for name in (
        *("InvalidName", "InvalidQueue", "InvalidResult", "LeaseLost", "LocalFileChanged"),
        *("LocalFileMissing", "LocalFileUnreadable", "LocalStorageMissing", "NameTooLong"),
        *("NameUnavailable", "NotPublished", "OtherWriter", "RemoteChanged", "TransferTimeout"),
        *("UnknownAlias", "VerificationError"),
    )
}
RULES: Rules = {
    **_OURS,
    "builtins.ConnectionError": Fault.AWAY,
    "builtins.OSError": _by_errno,
    "builtins.TimeoutError": _by_time_out,
    "django.core.exceptions.SuspiciousFileOperation": Fault.FILE,
    "socket.gaierror": Fault.AWAY,
    "socket.herror": Fault.AWAY,
    "ssl.SSLError": Fault.AWAY,
    **faults_azure.RULES,
    **faults_google.RULES,
    **faults_http.RULES,
    **faults_s3.RULES,
    **faults_servers.RULES,
}

__all__ = ["Diagnosis", "Fault", "diagnosis_of"]
