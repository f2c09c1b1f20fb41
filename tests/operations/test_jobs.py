"""Actions on many files that workers carry out."""

import threading
from typing import Any

import pytest
from django.core.files.storage import storages
from django.db import connection, connections, transaction
from pytest_django import Settings

from queued_storage import maintenance
from queued_storage.ledger import jobs as ledger_jobs
from queued_storage.ledger import schema
from queued_storage.ledger.database import ledger
from queued_storage.ledger.jobs import Action, Job, JobState, jobs
from queued_storage.ledger.models import QueuedFile
from queued_storage.ledger.remotes import remotes
from queued_storage.ledger.sql.clock import seconds_from_now
from queued_storage.ledger.states import State
from queued_storage.operations import comparison, errands, status
from queued_storage.operations.jobs import GIVEN_UP, request, run, run_due
from queued_storage.queues.jobs import JobThreads
from queued_storage.testing import drain
from queued_storage.transfers.work import run as work_run
from tests.support.scripted import LONG_AGO, disk, file, make, on_disk, read, row
from tests.support.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)


def saved(storage: Any, count: int = 3, *, are_local: bool = True) -> list[str]:
    names = [storage.save(f"{number}.txt", file(b"%d" % number)) for number in range(count)]
    assert storage.queue.deliver() == {}
    if not are_local:
        assert errands.evict(ledger().filter(alias=storage.alias)) == count
    return names


def requested(storage: Any, action: str = Action.EVICT) -> Job:
    storage.queue.messages.clear()
    [job] = request(action, ledger().filter(alias=storage.alias), "anna")
    return job


def now(job: Job) -> Job:
    return jobs().get(pk=job.pk)


def numbers(job: Job) -> tuple[str, int, int, int]:
    found = now(job)
    return found.state, found.position, found.succeeded, found.failed


def let_the_lease_expire(job: Job) -> None:
    jobs().filter(pk=job.pk).update(due_at=LONG_AGO)


def test_a_message_has_the_job_carried_out() -> None:
    storage = make()
    names = saved(storage)
    job = requested(storage)
    assert storage.queue.messages == [[-job.pk]]
    assert numbers(job) == (JobState.PENDING, 0, 0, 0)
    assert on_disk() == names
    storage.queue.deliver()
    assert numbers(job) == (JobState.DONE, 3, 3, 0)
    assert on_disk() == []
    found = now(job)
    assert (found.pks, found.due_at, found.lease_token) == (None, None, "")
    assert found.ended_at


def test_files_are_restored() -> None:
    storage = make()
    names = saved(storage, are_local=False)
    job = requested(storage, Action.RESTORE)
    storage.queue.deliver()
    assert numbers(job) == (JobState.DONE, 3, 3, 0)
    assert on_disk() == names


def test_copies_are_verified() -> None:
    storage = make()
    saved(storage)
    storage.remote.delete("1.txt")
    disk().delete("2.txt")
    job = requested(storage, Action.VERIFY)
    storage.queue.deliver()
    assert numbers(job) == (JobState.DONE, 3, 1, 2)
    findings = now(job).findings or []
    assert [(each["name"], each["side"], each["kind"]) for each in findings] == [
        ("1.txt", "remote", "missing"),
        ("2.txt", "local", "missing"),
    ]
    assert on_disk() == ["0.txt", "1.txt"]


def test_failure_is_kept_and_others_go_on() -> None:
    storage = make()
    saved(storage)
    storage.remote.delete("1.txt")
    job = requested(storage)
    storage.queue.deliver()
    assert numbers(job) == (JobState.DONE, 3, 2, 1)
    [finding] = now(job).findings or []
    assert finding["name"] == "1.txt"
    assert on_disk() == ["1.txt"]


def test_only_the_first_problems_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_jobs, "MAX_FINDINGS", 2)
    storage = make()
    saved(storage)
    for name in on_disk("far"):
        storage.remote.delete(name)
    job = requested(storage)
    storage.queue.deliver()
    assert numbers(job) == (JobState.DONE, 3, 0, 3)
    assert len(now(job).findings or []) == 2


def test_nothing_is_requested_twice_of_a_file() -> None:
    storage = make()
    saved(storage)
    first, second = requested(storage), requested(storage)
    run_due([storage.alias])
    assert numbers(first) == (JobState.DONE, 3, 3, 0)
    assert numbers(second) == (JobState.DONE, 3, 0, 0)  # nothing was left to do, and no error


def test_files_that_changed_since_are_skipped() -> None:
    storage = make()
    saved(storage)
    job = requested(storage)
    storage.delete("0.txt")
    with storage.open("1.txt", "wb") as opened:
        opened.write(b"new")
    run_due([storage.alias])
    assert numbers(job) == (JobState.DONE, 3, 1, 0)
    assert read(storage, "1.txt") == b"new"


def test_each_storage_has_a_job_of_its_own() -> None:
    one, other = make(), make()
    saved(one, 1)
    other.save("b.txt", file())
    other.queue.deliver()
    found = request(Action.EVICT, ledger().filter(alias__in=[one.alias, other.alias]))
    assert {job.alias: job.files for job in found} == {one.alias: 1, other.alias: 1}


def test_a_rolled_back_request_leaves_nothing() -> None:
    storage = make()
    saved(storage)
    with transaction.atomic():
        requested(storage)
        assert storage.queue.messages == []
        transaction.set_rollback(True)
    assert storage.queue.messages == []
    assert not jobs().exists()


def test_a_queue_that_is_down_loses_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = make()
    saved(storage)
    monkeypatch.setattr(storage.queue, "enqueue", lambda pks: 1 / 0)
    [job] = request(Action.EVICT, ledger().filter(alias=storage.alias))
    monkeypatch.undo()
    assert maintenance.sweep() == 0  # files
    assert storage.queue.messages == [[-job.pk]]
    storage.queue.deliver()
    assert numbers(job) == (JobState.DONE, 3, 3, 0)


def test_a_sweep_of_another_storage_enqueues_no_job() -> None:
    storage = make()
    saved(storage)
    requested(storage)
    storage.queue.messages.clear()
    maintenance.sweep("other")
    assert storage.queue.messages == []


def test_drain_processes_jobs() -> None:
    storage = make()
    saved(storage)
    job = requested(storage)
    assert drain(storage) == {}
    assert numbers(job) == (JobState.DONE, 3, 3, 0)


# Interruptions


def test_a_stopped_job_goes_on_where_it_was() -> None:
    storage = make()
    saved(storage)
    job = requested(storage)
    answers = iter([False, True])
    assert run(job.pk, lambda: next(answers))
    assert numbers(job) == (JobState.RUNNING, 1, 1, 0)
    run_due([storage.alias])
    assert numbers(job) == (JobState.DONE, 3, 3, 0)


def test_a_killed_worker_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = make()
    saved(storage)
    job = requested(storage)

    class Killed(BaseException):
        pass

    def die(*args: object, **kwargs: object) -> None:
        raise Killed

    with monkeypatch.context() as dying:
        dying.setattr(jobs().__class__, "advance", die)  # after the file, before it is recorded
        with pytest.raises(Killed):
            run(job.pk)
    assert numbers(job) == (JobState.RUNNING, 0, 0, 0)
    run_due([storage.alias])  # its lease is valid
    assert numbers(job) == (JobState.RUNNING, 0, 0, 0)
    let_the_lease_expire(job)
    run_due([storage.alias])
    assert numbers(job) == (JobState.DONE, 3, 2, 0)  # the first was evicted already
    assert on_disk() == []


def test_a_file_that_kills_workers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = make()
    saved(storage)
    job = requested(storage, Action.VERIFY)
    verify = comparison.verify

    def dies(rows: Any) -> Any:
        if rows.get().name == "1.txt":
            raise MemoryError
        return verify(rows)

    monkeypatch.setattr(comparison, "verify", dies)
    for _attempt in range(3):
        let_the_lease_expire(job)
        with pytest.raises(MemoryError):
            run(job.pk)
        assert numbers(job) == (JobState.RUNNING, 1, 1, 0)
    let_the_lease_expire(job)
    run(job.pk)
    assert numbers(job) == (JobState.DONE, 3, 2, 1)
    assert now(job).findings == [{"name": "1.txt", "error": GIVEN_UP}]


def test_a_worker_that_lost_its_job_stops() -> None:
    storage = make()
    names = saved(storage, are_local=False)
    job = requested(storage, Action.RESTORE)

    def take_over(name: str) -> None:
        let_the_lease_expire(job)
        # The other worker finds the file in the hands of this one, and waits.
        assert not run(job.pk)
        assert numbers(job) == (JobState.RUNNING, 0, 0, 0)

    storage.remote.before["_open"] = take_over
    assert not run(job.pk)
    assert numbers(job) == (JobState.DONE, 3, 3, 0)
    assert on_disk() == names


def test_file_of_a_killed_worker_is_awaited() -> None:
    storage = make()
    names = saved(storage, 1, are_local=False)
    job = requested(storage, Action.RESTORE)
    pk = row(storage, names[0]).pk
    assert ledger().claim_settled(pk)  # by a worker that dies
    ledger().filter(pk=pk).update(due_at=LONG_AGO)
    assert not run(job.pk)
    assert numbers(job) == (JobState.RUNNING, 0, 0, 0)
    work_run(pk)  # any worker ends the expired claim
    let_the_lease_expire(job)
    assert not run(job.pk)
    assert numbers(job) == (JobState.DONE, 1, 1, 0)
    assert on_disk() == names


def test_file_with_an_endless_claim_is_given_up() -> None:
    storage = make()
    names = saved(storage, 1, are_local=False)
    job = requested(storage, Action.RESTORE)
    pk = row(storage, names[0]).pk
    assert ledger().claim_settled(pk)
    ledger().filter(pk=pk).update(due_at=LONG_AGO)
    for _attempt in range(4):
        let_the_lease_expire(job)
        run(job.pk)
    assert numbers(job) == (JobState.DONE, 1, 0, 1)
    assert now(job).findings == [{"name": names[0], "error": GIVEN_UP}]


def test_a_cancelled_job_stops_after_its_file() -> None:
    storage = make()
    saved(storage, are_local=False)
    job = requested(storage, Action.RESTORE)
    storage.remote.before["_open"] = lambda name: jobs().filter(pk=job.pk).cancel()
    run_due([storage.alias])
    assert numbers(job) == (JobState.CANCELLED, 0, 0, 0)
    assert on_disk() == ["0.txt"]
    assert jobs().cancel() == 0
    run_due([storage.alias])
    assert on_disk() == ["0.txt"]


# Who carries them out


def test_newer_action_is_left_alone() -> None:
    storage = make()
    saved(storage)
    job = requested(storage)
    jobs().update(action="compress")
    storage.queue.deliver()
    maintenance.sweep()
    run_due([storage.alias])
    assert storage.queue.messages == []
    assert numbers(job) == (JobState.PENDING, 0, 0, 0)


def test_job_of_another_host_is_left_alone(settings: Settings) -> None:
    storage = make()
    saved(storage)
    ledger().filter(name="1.txt").update(host="web-2")
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "LOCAL_PER_HOST": True}
    rows = ledger().filter(alias=storage.alias)
    found = {job.host: job for job in request(Action.EVICT, rows)}
    assert {host: job.files for host, job in found.items()} == {
        row(storage, "0.txt").host: 2,
        "web-2": 1,
    }
    run_due([storage.alias])
    assert numbers(found["web-2"]) == (JobState.PENDING, 0, 0, 0)
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "HOST": "web-2"}
    run_due([storage.alias])
    assert numbers(found["web-2"]) == (JobState.DONE, 1, 1, 0)
    assert on_disk() == []


@pytest.fixture
def threads() -> Any:
    storage = make()
    found = JobThreads(60, lambda: [storage.alias])
    yield storage, found
    assert found.stop(30)


def test_threads_find_jobs_by_themselves(threads: Any) -> None:
    storage, job_threads = threads
    saved(storage)
    job = requested(storage)
    job_threads.start()
    until(lambda: now(job).state == JobState.DONE)
    job = requested(storage, Action.RESTORE)
    job_threads.notify()
    until(lambda: now(job).state == JobState.DONE)
    assert len(on_disk()) == 3


def test_threads_stop_between_two_files(threads: Any) -> None:
    storage, job_threads = threads
    saved(storage, are_local=False)
    job = requested(storage, Action.RESTORE)
    has_begun, goes_on = threading.Event(), threading.Event()

    def wait(name: str) -> None:
        has_begun.set()
        goes_on.wait(30)

    storage.remote.before["_open"] = wait
    job_threads.start()
    assert has_begun.wait(30)
    assert not job_threads.is_idle()
    assert not job_threads.stop(0)
    goes_on.set()
    assert job_threads.stop(30)
    assert numbers(job) == (JobState.RUNNING, 1, 1, 0)
    assert jobs().due_keys([storage.alias]) == [(job.pk, storage.alias)]


def test_a_thread_that_hangs_is_followed_by_another(
    threads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, job_threads = threads
    saved(storage)
    job = requested(storage, Action.VERIFY)
    goes_on, has_begun, verify = threading.Event(), threading.Event(), comparison.verify

    def hangs_once(rows: Any) -> Any:
        if not has_begun.is_set():
            has_begun.set()
            goes_on.wait(60)
        return verify(rows)

    monkeypatch.setattr(comparison, "verify", hangs_once)
    job_threads.start()
    assert has_begun.wait(30)
    let_the_lease_expire(job)
    job_threads.notify()
    until(lambda: now(job).state == JobState.DONE)
    assert not job_threads.is_idle()
    goes_on.set()
    until(job_threads.is_idle)
    assert numbers(job) == (JobState.DONE, 3, 3, 0)


def test_a_thread_that_fails_is_followed_by_another(
    threads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, job_threads = threads
    saved(storage)
    job = requested(storage, Action.VERIFY)
    verify, failed = comparison.verify, threading.Event()

    def fails_once(rows: Any) -> Any:
        if not failed.is_set():
            failed.set()
            raise MemoryError
        return verify(rows)

    monkeypatch.setattr(comparison, "verify", fails_once)
    job_threads.start()
    until(lambda: failed.is_set() and job_threads.is_idle())
    let_the_lease_expire(job)
    job_threads.notify()
    until(lambda: now(job).state == JobState.DONE)


# Before "migrate"


@pytest.fixture
def no_table(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The ledger as the version before jobs has left it."""
    monkeypatch.setattr(schema, "_migrated", set())
    with connection.schema_editor() as editor:
        editor.delete_model(Job)
    yield
    with connection.schema_editor() as editor:
        editor.create_model(Job)


def test_without_the_table_nothing_fails(no_table: None) -> None:
    storage = make()
    names = saved(storage)
    assert maintenance.sweep() == 0
    assert status.unfinished_jobs() == []
    assert status.troubles() == []
    job_threads = JobThreads(60, lambda: [storage.alias])
    job_threads.start()
    assert job_threads.stop(30)
    assert drain(storage) == {}
    assert storages["disk"].exists(names[0])
    assert QueuedFile.objects.filter(state=State.TRANSFERRED).count() == 3
    connections.close_all()


def test_status_reports_jobs_without_a_worker() -> None:
    storage = make()
    saved(storage)
    job = requested(storage)
    assert [each.pk for each in status.unfinished_jobs()] == [job.pk]
    assert not any("job" in trouble for trouble in status.troubles())
    let_the_lease_expire(job)
    remotes().update(since=seconds_from_now(-2 * status.IDLE_AFTER))  # it was open all the time
    assert any(trouble.startswith("1 job has been due") for trouble in status.troubles())
