"""Jobs in the admin and on the dashboard."""

import re
from typing import Any
from urllib.parse import quote

import pytest
from django.contrib.admin import AdminSite
from django.contrib.admin.models import LogEntry
from django.test import Client, RequestFactory

from queued_storage.admin import QueuedFileAdmin
from queued_storage.admin.jobs import url_of
from queued_storage.ledger import schema
from queued_storage.ledger.jobs import Action, Job, JobState, jobs
from queued_storage.models import QueuedFile
from tests.admin.pages import staff, text_of
from tests.support.scripted import LONG_AGO

pytestmark = pytest.mark.django_db

JOBS = "/admin/queued_storage/job/"
DASHBOARD = "/admin/queued_storage/queuedfile/dashboard/"


def add(action: str = Action.EVICT, files: int = 4000, **columns: Any) -> Job:
    job = jobs().request(action, "default", "", list(range(files)), "anna")
    jobs().filter(pk=job.pk).update(**columns)
    return job


def page_of(job: Job) -> str:
    return f"{JOBS}{job.pk}/change/"


@pytest.fixture
def operator(db: None) -> Client:
    return staff("view_queuedfile", "view_job", "cancel_job")


def test_pages_require_a_permission() -> None:
    job = add()
    stranger, viewer = staff("view_queuedfile"), staff("view_job")
    for url in (JOBS, page_of(job)):
        assert stranger.get(url).status_code == 403
        assert viewer.get(url).status_code == 200
    assert f"{job.pk}/cancel/" not in viewer.get(page_of(job)).content.decode()
    assert viewer.post(f"{JOBS}{job.pk}/cancel/").status_code == 403
    assert stranger.post(f"{JOBS}{job.pk}/cancel/").status_code == 403
    assert jobs().get().state == JobState.PENDING


def test_jobs_cannot_be_edited(admin_client: Client) -> None:
    job = add()
    assert admin_client.get(f"{JOBS}add/").status_code == 403
    assert admin_client.post(page_of(job), {"state": "done"}).status_code == 403
    assert admin_client.post(f"{JOBS}{job.pk}/delete/", {"post": "yes"}).status_code == 403
    jobs().cancel()
    assert admin_client.post(f"{JOBS}{job.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not jobs().exists()


def test_the_progress_is_shown(operator: Client) -> None:
    job = add(state=JobState.RUNNING, position=120, succeeded=117, failed=3)
    for url in (JOBS, page_of(job), DASHBOARD):
        text = text_of(operator, url)
        assert "120 of 4,000, 3 failed" in text
        assert "evict" in text
        assert "anna" in text
        assert '<progress max="100" value="3"' in operator.get(url).content.decode()


def test_a_job_without_a_worker_is_marked(operator: Client) -> None:
    job = add()
    for url in (JOBS, page_of(job), DASHBOARD):
        assert "No worker is processing it" not in text_of(operator, url)
    jobs().update(due_at=LONG_AGO)
    for url in (JOBS, page_of(job), DASHBOARD):
        assert "No worker is processing it" in text_of(operator, url)


def test_the_dashboard_shows_unfinished_jobs(operator: Client) -> None:
    assert "Jobs" not in text_of(operator, f"{DASHBOARD}numbers/")
    add(Action.VERIFY, state=JobState.DONE)
    assert "verify" not in text_of(operator, DASHBOARD)
    job = add(Action.RESTORE)
    page = operator.get(DASHBOARD).content.decode()
    assert f'<a href="{page_of(job)}" id="queued-job-{job.pk}">restore</a>' in page
    page = staff("view_queuedfile").get(DASHBOARD).content.decode()
    assert "restore" in page
    assert page_of(job) not in page


def test_problems_are_listed(operator: Client) -> None:
    evicted = add(failed=1, findings=[{"name": "a.txt", "error": "<b>100 %(x)s"}])
    verified = add(
        Action.VERIFY,
        failed=1,
        findings=[{"name": "b.txt", "side": "remote", "kind": "missing", "error": "Gone."}],
    )
    assert "a.txt The local copy was not evicted. &lt;b&gt;100 %(x)s" in text_of(
        operator, page_of(evicted)
    )
    assert "b.txt The remote copy is missing. Gone." in text_of(operator, page_of(verified))
    assert "No problem was found." in text_of(operator, page_of(add()))


def test_a_problem_of_a_newer_version_is_shown(operator: Client) -> None:
    job = add("compress", failed=1, findings=[{"name": "a.txt", "kind": "odd", "error": "Odd."}])
    assert "a.txt Odd." in text_of(operator, page_of(job))


def test_only_the_first_problems_are_listed(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = [{"name": f"{number}.txt", "error": "Gone."} for number in range(100)]
    job = add(failed=2000, findings=findings)
    assert "Only the first 100 problems are kept." in text_of(operator, page_of(job))


def test_cancel_one(operator: Client) -> None:
    job = add()
    url = re.search(r'<form method="post" action="([^"]+cancel/)"', html(operator, job))
    assert url
    answer = operator.post(url[1], follow=True)
    assert answer.redirect_chain == [(page_of(job), 302)]
    assert [str(message) for message in answer.context["messages"]] == ["1 job was cancelled."]
    assert jobs().get().state == JobState.CANCELLED
    assert "cancel/" not in html(operator, job)
    assert LogEntry.objects.get().change_message == "Cancelled."
    assert operator.get(url[1]).status_code == 405
    answer = operator.post(url[1], follow=True)
    [text] = answer.context["messages"]
    assert str(text) == "None of the selected jobs is pending or running."
    assert operator.post(f"{JOBS}{job.pk + 1}/cancel/").status_code == 404


def html(client: Client, job: Job) -> str:
    return client.get(page_of(job)).content.decode()


def test_cancel_several(operator: Client) -> None:
    found = [add(), add(), add(state=JobState.DONE)]
    data = {"action": "cancel", "_selected_action": [job.pk for job in found], "index": 0}
    answer = operator.post(JOBS, data, follow=True)
    assert [str(message) for message in answer.context["messages"]] == ["2 jobs were cancelled."]
    assert sorted(jobs().values_list("state", flat=True)) == ["cancelled", "cancelled", "done"]
    assert LogEntry.objects.count() == 2


def test_a_site_without_jobs_has_no_link(rf: RequestFactory, admin_user: Any) -> None:
    site = AdminSite(name="staff")
    site.register(QueuedFile, QueuedFileAdmin)
    request = rf.get("/")
    request.user = admin_user
    assert url_of(site, request, [add()]) == ""


def test_the_dashboard_needs_no_table_of_jobs(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "_migrated", set())
    monkeypatch.setattr(Job._meta, "db_table", "queued_storage_missing")
    assert operator.get(DASHBOARD).status_code == 200


# Absurd requests

ABSURD = ["a\0b", "9" * 40, "-1", "1e999", "%00", "", "💾", "x" * 10_000]
KEYS = [
    "q",
    "p",
    "o",
    "all",
    "e",
    "state__exact",
    "action__exact",
    "state",
    "alias",
    "id",
    "pk__in",
]


@pytest.mark.parametrize("key", [*KEYS, "state__in", "requested_at__gte", "_to_field", "nonsense"])
def test_absurd_filter_is_no_server_error(operator: Client, key: str) -> None:
    add()
    for value in ABSURD:
        assert operator.get(JOBS, {key: value}).status_code < 500
    assert operator.get(f"{JOBS}?{key}=%FF%00%ED%A0%80").status_code < 500


@pytest.mark.parametrize("value", ABSURD)
def test_an_absurd_selection_is_refused(operator: Client, value: str) -> None:
    job = add()
    data = {"action": "cancel", "_selected_action": [job.pk, value], "index": 0}
    assert operator.post(JOBS, data).status_code in (302, 400)
    assert jobs().get().state in (JobState.PENDING, JobState.CANCELLED)
    for page in ("change", "history", "delete", "cancel"):
        assert operator.get(f"{JOBS}{quote(value, safe='')}/{page}/").status_code < 500


def test_the_filters_find_jobs(operator: Client) -> None:
    found = [add(), add(Action.VERIFY, state=JobState.DONE)]
    for query, expected in [
        ({"state__exact": "done"}, found[1:]),
        ({"action__exact": "evict"}, found[:1]),
        ({}, found[::-1]),
    ]:
        shown = operator.get(JOBS, query).context["cl"].result_list
        assert [job.pk for job in shown] == [job.pk for job in expected]
