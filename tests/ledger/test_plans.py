"""Query plans of a sweep and a status, which must read indexes and no transferred row."""

import io
import math
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from queued_storage import health
from queued_storage.admin import overview
from queued_storage.ledger import localsides, measures, unplaced
from queued_storage.ledger.availability import in_use
from queued_storage.ledger.copies import Copy
from queued_storage.ledger.database import ledger
from queued_storage.ledger.preparations import counts, preparations
from queued_storage.ledger.priorities import PRIORITIES
from queued_storage.ledger.states import Content, State
from queued_storage.management.verbs.working import Worker
from queued_storage.models import QueuedFile
from queued_storage.operations import status
from queued_storage.queues import sweep as sweeping
from queued_storage.queues.sweep import sweep
from queued_storage.transfers import surplus
from queued_storage.transfers.candidates import CHUNK, Candidates
from queued_storage.transfers.preparing import due, due_of
from tests.support import stepping
from tests.support.many import repeat
from tests.support.scripted import LONG_AGO, make
from tests.support.steps import steps_of_sqlite
from tests.support.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)

SETTLED = 5_000
DUE = 100
TABLE = QueuedFile._meta.db_table
ANALYZE = {"sqlite": "ANALYZE", "postgresql": f"VACUUM ANALYZE {TABLE}"}
ANALYZE["mysql"] = f"ANALYZE TABLE {TABLE}"


def added(alias: str, name: str = "settled", **columns: Any) -> QueuedFile:
    return ledger().create(alias=alias, name=name, **columns)


@pytest.fixture
def storage() -> Any:
    """A storage with many transferred files and a few that are due."""
    storage = make(alias="plans")
    now = timezone.now()
    its = {"state": State.TRANSFERRED, "transferred_at": now, "verified": "checksum"}
    repeat(added(storage.alias, saved_at=now, size=1, **its), SETTLED - 1)
    repeat(added(storage.alias, name="due/due", saved_at=now, due_at=now), DUE - 1, "due/")
    return storage


@pytest.fixture(params=["without statistics", "with statistics"])
def statistics(request: pytest.FixtureRequest, storage: Any) -> str:
    with connection.cursor() as cursor:
        if request.param == "with statistics":
            if connection.vendor == "postgresql":
                until(all_pages_are_marked)
            else:
                cursor.execute(ANALYZE[connection.vendor])
        elif connection.vendor == "sqlite":
            cursor.execute("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_stat1'")
            if cursor.fetchone():
                cursor.execute("DELETE FROM sqlite_stat1")
                cursor.execute("ANALYZE sqlite_master")
        elif connection.vendor == "postgresql":
            pytest.skip("PostgreSQL collects them by itself")
    return str(request.param)


def all_pages_are_marked() -> bool:
    """VACUUM only marks pages whose commits are on the disk, together with those of other sessions
    at the same time."""
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = on")
        cursor.execute("SELECT pg_logical_emit_message(true, 'tests', '')")
        cursor.execute("RESET synchronous_commit")
        cursor.execute(ANALYZE["postgresql"])
        cursor.execute(
            "SELECT relallvisible = relpages FROM pg_class WHERE oid = %s::regclass", [TABLE]
        )
        return bool(cursor.fetchone()[0])


def plans(work: Callable[[], object], table: str = TABLE) -> list[tuple[str, str]]:
    """Return each SELECT of a table of the ledger with its plan."""
    with CaptureQueriesContext(connection) as captured:
        work()
    selects = [query["sql"] for query in captured.captured_queries]
    selects = [sql for sql in selects if sql.startswith("SELECT") and table in sql]
    prefix = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
    found = []
    with connection.cursor() as cursor:
        for sql in selects:
            cursor.execute(f"{prefix} {sql}")
            found.append((sql, "\n".join(str(line) for line in cursor.fetchall())))
    assert found
    return found


def is_index_only(plan: str) -> bool:
    words = {"sqlite": "USING COVERING INDEX", "postgresql": "Index Only Scan"}
    return words.get(connection.vendor, "Using index") in plan


def reads_what_it_finds(plan: str) -> bool:
    """Whether an index finds the rows of several ranges. PostgreSQL then reads these rows."""
    return "Bitmap Index Scan on queued_storage_state" in plan and "Filter:" not in plan


def reads_whole_table(plan: str) -> bool:
    words = {"sqlite": f"SCAN {TABLE}", "postgresql": f"Seq Scan on {TABLE}"}
    word = words.get(connection.vendor, "'ALL'")
    return any(word in line and "COVERING" not in line for line in plan.splitlines())


@pytest.mark.parametrize("alias", [None, "plans"])
def test_a_sweep_reads_only_the_due_index(storage: Any, statistics: str, alias: str | None) -> None:
    due = [(sql, plan) for sql, plan in plans(lambda: sweep(alias)) if "due_at" in sql]
    found = [plan for sql, plan in due if "place" not in sql]  # which old files get
    assert found
    for plan in found:
        assert "queued_storage_scheduled" in plan, plan
        assert is_index_only(plan), plan


def test_a_sweep_finds_each_row_once(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "AT_ONCE", 30)
    assert sweep() == DUE
    told = [pk for message in storage.queue.messages for pk in message]
    assert sorted(told) == sorted(ledger().due().values_list("pk", flat=True))


def test_a_status_reads_only_an_index(storage: Any, statistics: str) -> None:
    for sql, plan in plans(lambda: status.tallies(exact=False)):
        assert is_index_only(plan) or reads_what_it_finds(plan), f"{sql}\n{plan}"


def test_a_status_does_as_much_with_more_files(
    storage: Any, statistics: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("only SQLite tells how many steps it takes")
    monkeypatch.setattr(status, "LIMIT", 100)

    def steps() -> int:
        with steps_of_sqlite() as found:
            call_command("queued_storage", "status", stdout=io.StringIO())
        return len(found)

    steps()  # SQLite reads the tables' definitions
    before = steps()
    repeat(ledger().filter(name="settled").get(), SETTLED * 9, "more/")
    if statistics == "with statistics":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
    assert steps() < before * 1.5


def test_steps_are_counted_without_reading_other_files(storage: Any, statistics: str) -> None:
    ((sql, plan),) = plans(counts)
    if connection.vendor == "sqlite":
        assert f"SCAN {TABLE}" not in plan, f"{sql}\n{plan}"
    elif connection.vendor == "postgresql":
        assert not reads_whole_table(plan), f"{sql}\n{plan}"
    else:  # it reads all steps, and looks for the file of each
        assert re.search(r"'U0', 'eq_ref', 'PRIMARY'", plan), f"{sql}\n{plan}"


def test_unknown_states_are_found_without_reading_others(storage: Any, statistics: str) -> None:
    rows = ledger().filter(alias="plans").in_unknown_state()
    ((_sql, plan),) = plans(lambda: list(rows.values_list("pk")))
    assert is_index_only(plan) or reads_what_it_finds(plan), plan


def test_a_status_reads_no_transferred_row(storage: Any, statistics: str) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("a table of a few thousand rows may be read as a whole there")

    def status() -> None:
        call_command("queued_storage", "status", stdout=io.StringIO())

    for sql, plan in plans(status):
        assert not reads_whole_table(plan), f"{sql}\n{plan}"


def settled_work() -> None:
    """What is asked again and again while nothing is to be done."""
    call_command("queued_storage", "status", stdout=io.StringIO())
    health.check()
    sweep()
    assert ledger().claim_due(50, ["plans"]) == []
    suspects = ledger().filter(alias__in=["plans"]).suspects()
    assert not suspects.exists()
    assert ledger().claim_suspect(suspects) is None
    measures.stalled()


def test_statistics_of_a_settled_ledger_do_not_mislead(storage: Any) -> None:
    """SQLite's say then that each state has as many files as the table, and it avoids indexes."""
    if connection.vendor != "sqlite":
        pytest.skip("other databases know how many files are in each state")
    ledger().update(state=State.TRANSFERRED, due_at=None, transferred_at=timezone.now())
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    for sql, plan in plans(settled_work):
        assert not reads_whole_table(plan), f"{sql}\n{plan}"


def test_a_status_counts_only_the_newest(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "LIMIT", 1000)
    pending, transferred = status.tallies(exact=False)
    assert (pending.files, pending.is_cut) == (DUE, False)
    assert (transferred.files, transferred.bytes, transferred.is_cut) == (1000, 1000, True)
    _pending, transferred = status.tallies(exact=True)
    assert (transferred.files, transferred.bytes, transferred.is_cut) == (SETTLED, SETTLED, False)


def test_search_for_suspects_reads_files_in_progress(storage: Any, statistics: str) -> None:
    suspects = ledger().filter(alias__in=[storage.alias]).suspects()
    ((_sql, plan),) = plans(suspects.exists)
    assert "queued_storage_state" in plan, plan


def test_counting_stalled_files_reads_no_transferred_row(storage: Any, statistics: str) -> None:
    for sql, plan in plans(measures.stalled):
        assert not reads_whole_table(plan), f"{sql}\n{plan}"


OTHERS = 20_000  # due files of another alias
RANGE = {  # what says that only a range of the index is read
    "sqlite": "queued_storage_scheduled (alias=? AND priority=? AND due_at<?)",
    "postgresql": "AND (priority = 0) AND (due_at <=",
    "mysql": "queued_storage_scheduled",
}


@pytest.fixture
def others(storage: Any) -> None:
    """Many files of another alias, which are due for longer."""
    now = timezone.now()
    repeat(added("others", saved_at=now, due_at=LONG_AGO), OTHERS - 1)


def handler_reads() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read_%'")
        return sum(int(number) for _name, number in cursor.fetchall())


@pytest.mark.parametrize("aliases", [["plans"], ["plans", "nothing"]], ids=len)
def test_a_claim_reads_only_its_aliases(
    storage: Any, others: None, statistics: str, aliases: list[str]
) -> None:
    sql, plan = plans(lambda: ledger().claim_due(5, aliases))[0]
    assert plan.count(RANGE[connection.vendor]) >= len(aliases), plan
    if connection.vendor == "postgresql":
        for priority in PRIORITIES:
            its_range = f"AND (priority = {priority}) AND (due_at <="
            assert plan.replace("'", "").replace("::integer", "").count(its_range) >= len(aliases)
    # Only the first rows of all ranges are sorted. An alias without rows has nothing to sort.
    assert plan.count("Sort Key") <= 1 or len(aliases) > 1, plan
    if connection.vendor == "mysql":
        before = handler_reads()
        with connection.cursor() as cursor:
            cursor.execute(sql)
        assert handler_reads() - before < DUE


LOOKS: dict[str, Callable[[], Any]] = {
    "overdue": measures.overdue,
    "activity": status.activity,
    "idle hosts": lambda: status._idle_hosts(in_use()),
    "hosts": overview.hosts,
    "worker": Worker.is_due,
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_looks_for_due_files_read_ranges(
    storage: Any, statistics: str, look: Callable[[], Any], settings: Any
) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"LOCAL_PER_HOST": True}
    # Of a storage without rows, any index reads nothing.
    found = [
        (sql, plan)
        for sql, plan in plans(look)
        if re.search(r"""["`]due_at["`] [<>]""", sql) and storage.alias in sql
    ]
    assert found
    for sql, plan in found:
        assert "queued_storage_scheduled" in plan, f"{sql}\n{plan}"


SUMS: dict[str, Callable[[str], Any]] = {
    "local": localsides.local_bytes,
    "pending": localsides.pending_bytes,
    "pending, in parts": lambda alias: localsides.pending_in_parts(alias, 10),
}


@pytest.mark.parametrize("ask", SUMS.values(), ids=SUMS)
def test_sums_of_limits_read_only_an_index(
    storage: Any, others: None, statistics: str, ask: Callable[[str], Any]
) -> None:
    ((sql, plan), *of_hidden) = plans(lambda: ask(storage.alias))
    assert is_index_only(plan) or reads_what_it_finds(plan), f"{sql}\n{plan}"
    for sql, plan in of_hidden:  # which are few
        assert "queued_storage_state" in plan, f"{sql}\n{plan}"


def test_recent_pending_files_are_a_range(storage: Any, statistics: str) -> None:
    """However many files wait for longer."""
    long_ago = {"saved_at": LONG_AGO, "due_at": LONG_AGO, "size": 1}
    repeat(added("plans", name="old/old", **long_ago), SETTLED - 1, "old/")
    added("plans", name="new", saved_at=timezone.now(), size=7)
    moment = timezone.now() - timedelta(hours=1)
    assert localsides.pending_bytes_since("plans", moment) == 7
    ((sql, plan),) = plans(lambda: localsides.pending_bytes_since("plans", moment))
    assert is_index_only(plan), f"{sql}\n{plan}"
    if connection.vendor == "mysql":
        before = handler_reads()
        with connection.cursor() as cursor:
            cursor.execute(sql)
        assert handler_reads() - before < DUE * 2
    else:
        assert re.search('saved_at"? ?>', plan), plan


def test_candidates_are_found_in_the_order_of_an_index(
    storage: Any, others: None, statistics: str
) -> None:
    found = plans(lambda: Candidates(storage, (), math.inf).next(1))
    assert len(found) > 2 * SETTLED // CHUNK
    keys, rows = found[0::2], found[1::2]
    for sql, plan in keys:
        # InnoDB's table is in the order of the keys, too.
        in_order = is_index_only(plan) or (connection.vendor == "mysql" and "'PRIMARY'" in plan)
        assert in_order, f"{sql}\n{plan}"
        assert not re.search("Sort|TEMP B-TREE|filesort", plan), f"{sql}\n{plan}"
    for sql, plan in rows:
        assert BY_KEY[connection.vendor] in plan, f"{sql}\n{plan}"


BY_KEY = {
    "sqlite": "USING INTEGER PRIMARY KEY (rowid",
    "postgresql": f"{TABLE}_pkey",
    "mysql": "'PRIMARY'",
}


def test_filling_reads_ranges_of_keys(storage: Any, statistics: str) -> None:
    first = ledger().order_by("pk")[0].pk

    def look() -> None:
        window = unplaced.window(first, SETTLED // 10)
        assert window is not None
        assert unplaced.fill(window, {"nothing": 5}, 20) == (0, 0)
        assert unplaced.fill(window, {"plans": 5}, 20) == (20, 20)
        assert window.has_files

    found = [(sql, plan) for sql, plan in plans(look) if "IS NULL" in sql]
    assert len(found) >= 2
    for sql, plan in found:
        assert BY_KEY[connection.vendor] in plan, f"{sql}\n{plan}"
        assert not reads_whole_table(plan), f"{sql}\n{plan}"


@pytest.mark.parametrize("look", [lambda pk: due("plans")[:20], lambda pk: due_of([pk])])
def test_looks_for_steps_read_no_other_files(
    storage: Any, statistics: str, look: Callable[[int], Any]
) -> None:
    file = added("plans", name="new", saved_at=timezone.now(), state=State.PREPARING)
    preparations().begin(file.pk, 1, Content(1, ""))
    storage._options["steps"] = [stepping.Passing()]
    for sql, plan in plans(lambda: list(look(file.pk))):
        assert BY_KEY.get(connection.vendor, "'eq_ref'") in plan or "'const'" in plan, (sql, plan)


def test_removals_read_no_copies_that_are_to_be_made(storage: Any) -> None:
    """While a mirror is closed, all files may have one that is due."""
    table, now = Copy._meta.db_table, timezone.now()
    rows = ledger().filter(alias=storage.alias, state=State.TRANSFERRED)
    Copy.objects.bulk_create([Copy(file=row, place=7, due_at=now) for row in rows])
    with connection.cursor() as cursor:
        cursor.execute(ANALYZE[connection.vendor].replace(TABLE, table))
    found = [plan for sql, plan in plans(surplus.is_due, table) if "removing" in sql]
    assert found
    for plan in found:
        assert "queued_storage_copy_place" in plan, plan
