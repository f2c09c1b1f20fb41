"""Says when another copy of a file should be read instead."""

from ..exceptions import VerificationError
from ..remotes.fault_kinds import Fault
from .base import Uploader


def may_help(uploader: Uploader, error: Exception) -> bool:
    """Return whether an error of reading is the remote's: it does not answer, or its copy is lost
    or wrong, so that another copy may be read."""
    if isinstance(error, FileNotFoundError | VerificationError):
        return True
    return uploader.diagnose(error, 0).fault in (Fault.AWAY, Fault.REFUSED)
