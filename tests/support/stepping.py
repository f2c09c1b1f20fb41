"""Steps for tests, and storages that have them."""

from collections.abc import Callable
from typing import Any

from queued_storage.ledger.preparations import Preparation, preparations
from queued_storage.steps import LATER, PASS, REJECT, REPLACE, Outcome, Step, StepFile
from queued_storage.transfers import preparing
from tests.support import scripted

EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"


class Passing(Step):
    """Pass every file, and remember what was seen."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def run(self, file: StepFile) -> Outcome:
        self.seen.append(b"".join(file.chunks()))
        return PASS


class Scanning(Step):
    """Reject files that carry the EICAR text."""

    def run(self, file: StepFile) -> Outcome:
        return REJECT("It carries EICAR.") if EICAR in b"".join(file.chunks()) else PASS


class Scripted(Step):
    """Return, or raise, the next of these; call functions with the file; pass at the end."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.calls = 0

    def run(self, file: StepFile) -> Outcome:
        self.calls += 1
        found = self.outcomes.pop(0) if self.outcomes else PASS
        if isinstance(found, BaseException):
            raise found
        if callable(found) and not isinstance(found, Outcome):
            found = found(file) or PASS
        return found  # type: ignore[no-any-return]


def never(file: StepFile) -> Outcome:
    return LATER(3600)


def gated(*steps: Any, **options: Any) -> Any:
    """Return a storage that publishes after its steps."""
    defaults = {"steps": list(steps) or [Passing()], "publish": "after_steps"}
    return scripted.make(**defaults | options)


def at_once(*steps: Any, **options: Any) -> Any:
    return gated(*steps, **{"publish": "at_once"} | options)


def run(storage: Any, until: Callable[[], bool] = lambda: False) -> dict[int, Exception]:
    """Run all steps that are due."""
    return preparing.run_due(storage.alias, until)


def preparation(storage: Any, name: str) -> Preparation | None:
    return preparations().filter(file__alias=storage.alias, file__name=name).first()


def hurry(storage: Any) -> None:
    """Let all that waits be due, and leases expire."""
    preparations().of_alias(storage.alias).filter(due_at__isnull=False).hurry()


class Cleaning(Step):
    """Replace what is dirty, which a second run does not find any more."""

    def run(self, file: StepFile) -> Outcome:
        data = b"".join(file.chunks())
        return REPLACE(data.replace(b"dirty", b"clean")) if b"dirty" in data else PASS
