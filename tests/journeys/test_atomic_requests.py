"""No view and no admin action calls a remote inside the transaction of a request.

With ``ATOMIC_REQUESTS``, other users would wait for the locks of the request, and on SQLite for
all of their writes, for as long as the remote is slow. The views and actions are found by
themselves, so a new one is tested without being added here.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.core.files.storage import FileSystemStorage, storages
from django.db import connection, connections
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory
from django.urls import URLPattern, URLResolver, get_resolver, path, reverse
from pytest_django import Settings

from queued_storage.ledger.database import ledger
from queued_storage.ledger.jobs import Action, jobs
from queued_storage.ledger.preparations import preparations
from queued_storage.ledger.states import Content
from queued_storage.operations import errands
from queued_storage.operations.jobs import request as request_job
from queued_storage.serving.peers import ticket_for
from queued_storage.testing import drain
from tests.support.scripted import file

pytestmark = pytest.mark.django_db(transaction=True)

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
PARTS = ("_open", "_save", "delete", "exists", "listdir", "size", "url", "get_modified_time")
calls: list[tuple[str, bool]] = []  # to either side, and whether they were in a transaction


class WatchedStorage(FileSystemStorage):
    """Records its calls. As a local storage, it stands for one that is not on a disk."""


def _watched(method: str) -> Any:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append((method, connection.in_atomic_block))
        return getattr(FileSystemStorage, method)(self, *args, **kwargs)

    return call


for _method in PARTS:
    setattr(WatchedStorage, _method, _watched(_method))


@pytest.fixture(autouse=True)
def rows(settings: Settings, tmp_path: Any) -> Iterator[list[Any]]:
    """A file with two copies, one that is only on the remote, and one that waits."""
    side = f"{__name__}.WatchedStorage"
    settings.STORAGES = settings.STORAGES | {
        "default": {
            "BACKEND": "queued_storage.backends.QueuedStorage",
            "OPTIONS": {
                "local": side,
                "local_options": {"location": tmp_path / "disk", "base_url": "/media/"},
                "remote": side,
                "remote_options": {"location": tmp_path / "far", "base_url": "https://far/"},
                "url_mode": "proxied",
            },
        }
    }
    storage: Any = storages["default"]
    for name in ("both.png", "far.png", "waits.png"):
        if name == "waits.png":
            assert drain() == {}
            assert errands.evict(ledger().filter(name="far.png")) == 1
        storage.save(name, file(PNG))
    first, *_others = found = list(ledger().order_by("pk"))
    preparations().begin(first.pk, first.generation, Content(len(PNG), "", "image/png"), "hidden")
    storage.queue.messages.clear()
    database = connections.settings["default"]
    database["ATOMIC_REQUESTS"] = True
    calls.clear()
    yield found
    database["ATOMIC_REQUESTS"] = False


def patterns(found: list[Any], prefix: str = "") -> Iterator[tuple[str, URLPattern]]:
    for each in found:
        if isinstance(each, URLResolver):
            inner = f"{prefix}{each.namespace}:" if each.namespace else prefix
            yield from patterns(each.url_patterns, inner)
        else:
            yield f"{prefix}{each.name}", each


def own_views() -> dict[str, URLPattern]:
    """The patterns of the app's URLs, and of the admin's pages for its models."""
    found = patterns(get_resolver().url_patterns)
    return {
        name: pattern
        for name, pattern in found
        if name.startswith(("queued_storage:", "admin:queued_storage_"))
    }


VIEWS = own_views()
ADMINS = {
    model._meta.model_name: model_admin
    for model, model_admin in admin.site._registry.items()
    if model._meta.app_label == "queued_storage"
}


def arguments(pattern: URLPattern, rows: list[Any]) -> list[dict[str, Any]]:
    """The arguments for each file. If a parameter is unknown, add it here."""
    parameters = sorted(pattern.pattern.regex.groupindex)
    pks = _pks_of(pattern.name or "", rows)
    known = {
        (): [{}],
        ("alias", "name"): [{"alias": row.alias, "name": row.name} for row in rows],
        ("name",): [{"name": name} for name in ("pause", "resume", "probe")],
        ("object_id",): [{"object_id": pk} for pk in pks],
        ("pk",): [{"pk": pk} for pk in pks],
        ("ticket",): [{"ticket": ticket_for(row)} for row in rows],
    }
    return known[tuple(parameters)]


def _pks_of(name: str, rows: list[Any]) -> list[int]:
    """The keys of what the pages of a model, or its actions, are about."""
    if "job" in name:
        return [jobs().get().pk]
    if "preparation" in name:
        return list(preparations().values_list("pk", flat=True))
    return [row.pk for row in rows]


@pytest.fixture
def client() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


def in_transactions() -> set[str]:
    return {method for method, is_in_transaction in calls if is_in_transaction}


@pytest.mark.parametrize("name", VIEWS)
def test_no_view_calls_a_storage_in_a_transaction(
    name: str, rows: list[Any], client: Client
) -> None:
    request_job(Action.VERIFY, ledger().filter(name="both.png"))
    for given in arguments(VIEWS[name], rows):
        for send in (client.get, client.post):
            answer: Any = send(reverse(name, kwargs=given))
            assert answer.status_code < 500
            assert b"" in (b"".join(answer) if answer.streaming else answer.content)
    assert in_transactions() == set()


def test_the_views_are_found() -> None:
    assert {"queued_storage:file", "admin:queued_storage_job_cancel"} < set(VIEWS)
    assert set(ADMINS) == {"queuedfile", "job", "preparation"}


def test_the_test_sees_calls(rows: list[Any], client: Client) -> None:
    url = reverse("queued_storage:file", kwargs={"alias": "default", "name": "far.png"})
    assert b"".join(client.get(url)) == PNG  # type: ignore[arg-type]
    assert calls


def test_the_test_sees_transactions(settings: Settings) -> None:
    settings.ROOT_URLCONF = __name__
    assert Client().get("/careless/").status_code == 200
    assert in_transactions() == {"exists"}


def careless(request: HttpRequest) -> HttpResponse:
    storage: Any = storages["default"]
    return HttpResponse(str(storage.remote.exists("a.txt")))


urlpatterns = [path("careless/", careless)]


def actions() -> list[tuple[str, str]]:
    request = RequestFactory().get("/")
    request.user = User(is_superuser=True, is_staff=True, is_active=True)
    return [(name, action) for name, each in ADMINS.items() for action in each.get_actions(request)]


@pytest.mark.parametrize(("model", "action"), actions())
def test_no_action_calls_a_storage(
    model: str, action: str, rows: list[Any], client: Client
) -> None:
    request_job(Action.VERIFY, ledger().filter(name="both.png"))
    pks = _pks_of(model, rows)
    data = {"action": action, "_selected_action": pks, "index": 0, "post": "yes"}
    answer = client.post(reverse(f"admin:queued_storage_{model}_changelist"), data)
    assert answer.status_code in (302, 403)
    assert calls == []
