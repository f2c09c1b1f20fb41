"""What an upgrade from a version without places brings, with a million files in the ledger.

That is: what a claim gains beside a remote that is closed, and the filling in of places, while
another process saves. The group ``migrations`` measures the migrations.
"""

import statistics
import time
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

from .million import SETTLED, Goal, Measured, Writer, files_of, fill, migrate, rows_of
from .rows import Options, Row, by_turns

BATCH = 10  # files in a claim
WITH_PLACES = "0003_remote"
WITH_INDEX = "0005_remove_due"


def rows(options: Options) -> Iterator[Row]:
    goals = partial(_goals, files_of(options))
    return rows_of("upgrades", options, goals, partial(_measure, options=options))


def _goals(files: int) -> Iterator[Goal]:
    beside = f"claim beside {files:,} due files of a closed remote"
    yield "claim", f"{beside}, compared with the query of the version before", 0.2, "x"
    yield "claim.ms", beside, 25, "ms"
    yield "alone.wait", "longest save without anything beside it", 1000, "ms"
    yield "filling.time", f"filling in the places of {files + files // SETTLED:,} files", 600, "s"
    yield "filling.step", "filling in the places of 500 of them", 200, "ms"
    yield "filling.wait", "longest save during the filling", 1000, "ms"
    yield "filling.change", "longest change of an old row during the filling", 1000, "ms"
    yield "again.all", "going through all files when every place is filled in", 20, "s"
    yield "again.next", "the same for the processes after that", 100, "ms"


def _measure(database: str, options: Options) -> Measured:
    files = files_of(options)
    fill(database, files)
    found: Measured = {}
    with Writer.beside(database, files) as writer:
        with writer.watched(found, "alone"):
            time.sleep(0.5 if options.quick else 20)
        migrate(database, WITH_PLACES)
        before = by_turns({"before": _claim_as_before}, options.rounds(9))["before"]
        migrate(database, WITH_INDEX)
        after = by_turns({"after": _claim}, options.rounds(9))["after"]
        details = {"before, ms": round(before * 1000, 2), "after, ms": round(after * 1000, 2)}
        found["claim"] = round(after / before, 4), details
        found["claim.ms"] = round(after * 1000, 2), details
        _fill(writer, found)
        found["filling.change"] = writer.longest("change")
    _look_again(found)
    return found


# Claims


def _claim(number: int) -> None:
    from queued_storage.ledger.database import ledger

    assert len(ledger().claim_due(BATCH, ["open"])) == BATCH


def _claim_as_before(number: int) -> None:
    """Do what the version before did, whose index of due files did not begin with the alias."""
    from queued_storage.ledger.database import ledger
    from queued_storage.ledger.states import State

    rows = ledger()
    due = rows.due().filter(alias__in=["open"]).claimable().exclude(state=State.TRANSFERRING)
    with rows.locking():
        pks = list(due.order_by("due_at").unlocked_keys()[:BATCH])
        taken = rows._take(pks, [])
    assert len(taken) == BATCH


# Places


def _fill(writer: "Writer", found: Measured) -> None:
    from queued_storage.ledger.database import ledger
    from queued_storage.ledger.remotes import remotes
    from queued_storage.transfers.filling import Filling

    for alias in ("closed", "open"):
        remotes().register(alias, PLACE)
    steps = []
    process = Filling()
    with writer.watched(found, "filling"):
        started = time.perf_counter()
        while process.take_turn(0, lambda: True, even_early=True):
            steps.append(time.perf_counter() - started)
            started = time.perf_counter()
    assert ledger().filter(place=None, alias__in=["closed", "open"]).count() == 0
    longest = {"longest, ms": round(max(steps) * 1000, 1), "steps": len(steps)}
    found["filling.step"] = round(statistics.median(steps) * 1000, 1), longest


def _look_again(found: Measured) -> None:
    from queued_storage.ledger.database import ledger_database
    from queued_storage.ledger.identity import PROGRESS, LedgerIdentity
    from queued_storage.ledger.remotes import remotes
    from queued_storage.transfers.filling import Filling

    remotes().register("writer", PLACE)
    Filling().take_turn(3600, lambda: True, even_early=True)  # what the writer has saved
    LedgerIdentity.objects.using(ledger_database()).filter(pk=PROGRESS).delete()
    for key, unit in (("again.all", 1), ("again.next", 1000)):
        started = time.perf_counter()
        Filling().take_turn(3600, lambda: True, even_early=True)
        found[key] = round((time.perf_counter() - started) * unit, 2), {}


PLACE: Any = SimpleNamespace(digest=5, description="the place of the benchmark")
