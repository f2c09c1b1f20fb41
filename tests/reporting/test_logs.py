"""Log records and their fields."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import DatabaseError

from queued_storage.ledger.database import ledger
from queued_storage.ledger.names import is_reserved
from queued_storage.ledger.states import State
from queued_storage.maintenance import sweep
from queued_storage.models import QueuedFile
from queued_storage.queues.base import BaseQueue, run_all
from queued_storage.reporting.logs import KEYS, logger
from queued_storage.reporting.reasons import one_line
from queued_storage.tasks import TransferAndDelete
from queued_storage.transfers import executor, lanes, leases, work
from tests.support.scripted import LONG_AGO, ScriptedStorage, Step, file, make, make_due, row
from tests.support.waiting import until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_database]

FORGED = "a\nERROR all is lost\r\x1b[31m\u2028\u202e.txt"
ESCAPED = r"a\nERROR all is lost\r\x1b[31m\u2028\u202e.txt"


class Shouting(ScriptedStorage):
    def _save(self, name: str, content: Any) -> str:
        if is_reserved(name):  # a probe
            return str(super()._save(name, content))
        raise OSError("twice\nover")


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """All log records of the package."""
    found: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = found.append  # type: ignore[method-assign,assignment]
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield found
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    return {key: getattr(record, key) for key in KEYS}


def said(records: list[logging.LogRecord], words: str) -> logging.LogRecord:
    [found] = [record for record in records if words in record.getMessage()]
    return found


def test_each_step_is_logged_with_its_fields(records: Any) -> None:
    storage = make(task=TransferAndDelete())
    name = storage.save("a.txt", file())
    host = row(storage, name).host
    pk = row(storage, name).pk
    storage.queue.deliver()
    storage.delete(name)
    storage.queue.deliver()
    common = {
        "queued_file": pk,
        "queued_storage": storage.alias,
        "queued_name": name,
        "queued_host": host,
        "queued_attempt": 1,
        "queued_error": None,
    }
    assert fields(said(records, "was transferred")) == common | {"queued_state": "transferring"}
    assert fields(said(records, "was evicted")) == common | {"queued_state": "transferring"}
    assert fields(said(records, "was deleted")) == common | {"queued_state": "deleting"}


def test_a_failure_names_the_class_of_its_error(records: Any) -> None:
    storage = make()
    name = storage.save("a.txt", file())
    storage.remote.rejects = True
    storage.queue.deliver()
    record = said(records, "failed")
    assert record.levelno == logging.WARNING
    assert fields(record)["queued_error"] == "OSError"
    assert fields(record)["queued_file"] == row(storage, name).pk
    assert fields(record)["queued_attempt"] == 1


def test_a_superseded_attempt_is_logged(records: Any) -> None:
    storage = make(task=Step(lambda *sides: ledger().update(lease_token="another")))
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    [record] = [each for each in records if fields(each)["queued_error"] == "LeaseLost"]
    assert fields(record)["queued_name"] == name


def test_a_record_between_files_has_no_fields(records: Any) -> None:
    storage = make()
    storage.save("a.txt", file())
    storage.queue.deliver()
    logger.warning("Something else.")
    assert set(fields(records[-1]).values()) == {None}


def test_a_file_with_an_unknown_alias_is_logged(records: Any) -> None:
    storage = make()
    name = storage.save("a.txt", file())
    pk = make_due(storage, name)
    ledger().update(alias="gone")
    run_all([pk])
    record = said(records, "'gone'")
    assert fields(record)["queued_file"] == pk
    assert fields(record)["queued_error"] == "UnknownAlias"
    ledger().update(due_at=LONG_AGO)
    sweep()
    assert fields(said(records, "could not be enqueued"))["queued_storage"] == "gone"


def test_a_failing_renewal_is_logged(records: Any) -> None:
    storage = make()
    name = storage.save("a.txt", file())
    claimed = ledger().claim(row(storage, name).pk)
    assert claimed

    def away(claims: object) -> None:
        raise DatabaseError("away")

    lease = leases.Lease(claimed)
    lease.ledger.renew_unlocked = away
    leases._Heart._beat([lease])
    record = said(records, "A lease could not be renewed")
    assert fields(record)["queued_file"] == claimed.pk
    assert fields(record)["queued_error"] == "DatabaseError"


def test_a_failing_ledger_is_logged(records: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(pk: int) -> None:
        raise DatabaseError("away")

    monkeypatch.setattr(work, "run_new", away)
    run_all([7])
    assert fields(said(records, "File 7"))["queued_file"] == 7
    monkeypatch.setattr(executor, "ledger", lambda: away(8))
    threads = executor.Executor(1, 60, list)
    threads.start()
    threads.notify([8])
    found = until(lambda: [each for each in records if "processed" in each.getMessage()])
    assert threads.stop(10)
    assert fields(found[0])["queued_error"] == "DatabaseError"


def test_a_failing_ledger_after_the_claim_is_logged(
    records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(claimed: QueuedFile) -> None:
        monkeypatch.undo()
        raise DatabaseError("away")

    storage = make()
    pk = row(storage, storage.save("a.txt", file())).pk
    monkeypatch.setattr(lanes.work, "run_claimed", away)
    threads = executor.Executor(1, 60, lambda: [storage.alias])
    threads.start()
    record = until(lambda: [each for each in records if "processed" in each.getMessage()])[0]
    assert threads.stop(10)
    assert fields(record)["queued_file"] == pk
    assert not leases._waiting


def test_a_failing_queue_is_logged(records: Any) -> None:
    class Dead(BaseQueue):
        def enqueue(self, pks: list[int]) -> None:
            raise ConnectionError("the broker\nis away")

    storage = make(queue=Dead())
    storage.save("a.txt", file())
    record = said(records, r"the broker\nis away")
    assert fields(record)["queued_storage"] == storage.alias
    assert fields(record)["queued_error"] == "ConnectionError"


def test_names_and_errors_stay_on_one_line(records: Any) -> None:
    storage = make()
    pk = row(storage, storage.save("a.txt", file())).pk
    ledger().filter(pk=pk).update(name=FORGED)
    run_all([pk])  # fails: no such local file
    storage = make(remote=Shouting())
    storage.save("b.txt", file())
    storage.queue.deliver()
    assert len(records) == 2
    for record in records:
        assert (
            len(logging.Formatter("%(message)s %(queued_name)s").format(record).splitlines()) == 1
        )
    assert fields(records[0])["queued_name"] == ESCAPED
    assert ESCAPED in records[0].getMessage()
    assert r"twice\nover" in records[1].getMessage()


def test_a_row_is_described_on_one_line() -> None:
    assert str(QueuedFile(name=FORGED, alias="x\ny")) == ESCAPED + r" (x\ny)"


@pytest.mark.parametrize("plain", ["a.txt", "größe 日本.txt", "back\\slash", "100%", ""])
def test_printable_text_is_unchanged(plain: str) -> None:
    assert one_line(plain) == plain


def test_surrogates_and_controls_are_escaped() -> None:
    assert one_line("a\udcff\x00\x9b") == r"a\udcff\x00\x9b"


def test_the_fields_fit_into_json(records: Any) -> None:
    storage = make()
    storage.save("a.txt", file())
    storage.queue.deliver()
    assert json.loads(json.dumps(fields(records[0])))["queued_state"] == State.TRANSFERRING


def test_a_project_can_add_its_own_fields(records: Any) -> None:
    before = logging.getLogRecordFactory()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        record.host, record.state, record.storage = "h", "s", "st"
        return record

    logging.setLogRecordFactory(factory)
    try:
        storage = make()
        storage.save("a.txt", file())
        storage.remote.rejects = True
        storage.queue.deliver()
    finally:
        logging.setLogRecordFactory(before)
    assert said(records, "failed").__dict__["host"] == "h"


def test_numbers_stay_numbers_for_the_format(records: Any) -> None:
    logger.warning("%d files, %.1f MB, %s", 3, 1.25, "a\tb")
    assert records[-1].getMessage() == r"3 files, 1.2 MB, a\tb"


@pytest.mark.parametrize("text", ["a\x1b[2Jb", "a\rb", "a\u202eb", "a\x9bb"])
def test_tracebacks_have_no_control_characters(text: str, caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError(text)
    except ValueError:
        logger.exception("It broke.")
    [record] = caplog.records
    shown = logging.Formatter().format(record)
    assert "\n" in shown
    assert shown.replace("\n", "").isprintable()
    assert repr(text)[1:-1] in shown


def test_other_tracebacks_are_left_to_the_formatter(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("Größe")
    except ValueError:
        logger.exception("It broke.")
    assert caplog.records[0].exc_text is None or "Größe" in caplog.records[0].exc_text
