"""The steps that files pass before they are transferred or published."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from django.core.files import File

__all__ = ["LATER", "PASS", "REJECT", "REPLACE", "Outcome", "Step", "StepFile"]


class Outcome:
    """What a step says of a file: ``PASS``, ``REPLACE()``, ``LATER()`` or ``REJECT()``."""


class _Pass(Outcome):
    def __repr__(self) -> str:
        return "PASS"


PASS = _Pass()
"""The file may go on to the next step."""


@dataclass(frozen=True)
class REPLACE(Outcome):
    """The file gets new bytes, and goes on to the next step.

    ``content`` is a file or bytes. A file is read from its beginning, and closed.
    """

    content: Any


@dataclass(frozen=True)
class LATER(Outcome):
    """The step is to be run again in so many seconds. This does not count as a failed attempt."""

    seconds: float


@dataclass(frozen=True)
class REJECT(Outcome):
    """The file is not published and not transferred, for a reason that operators can read."""

    reason: str


class StepFile(Protocol):
    """The file that a step works on, as the steps before it have left it."""

    @property
    def name(self) -> str:
        """The name under which the file is, or will be, published."""

    @property
    def size(self) -> int:
        """Its size in bytes."""

    @property
    def content_type(self) -> str:
        """The content type that the upload had, or that its name suggests; "" if unknown."""

    @property
    def storage(self) -> str:
        """The alias of its storage."""

    @property
    def attempt(self) -> int:
        """1 for the first attempt to run this step, and so on."""

    def open(self, mode: str = "rb") -> File:
        """Open the bytes for reading."""

    def chunks(self) -> Iterator[bytes]:
        """Read the bytes, a piece at a time."""

    def local_path(self) -> AbstractContextManager[str]:
        """Provide a path on this machine for the block, with the file's own base name, for reading
        only."""

    def progress(self) -> None:
        """Say that the step makes progress.

        Reading does the same. A step that does neither for ``STALL_TIMEOUT`` counts as one that
        hangs. Raises ``LeaseLost`` if the file was deleted or overwritten meanwhile: let it
        propagate.
        """


class Step(ABC):
    """One step. An instance is made once for each process, and used by several threads."""

    @abstractmethod
    def run(self, file: StepFile) -> Outcome:
        """Look at a file, and return what is to be done with it.

        An exception means that the step could not be run: it is run again later, ``RETRIES`` times.
        A step may run more than once for one file, if its process dies.
        """
