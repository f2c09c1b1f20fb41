"""Requests to the admin's pages, and rows for them."""

import re
from typing import Any

from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone

from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile

LIST = "/admin/queued_storage/queuedfile/"


def staff(*permissions: str) -> Client:
    """A logged-in staff member with these permissions."""
    found = User.objects.create_user(f"staff-{User.objects.count()}", is_staff=True)
    wanted = Permission.objects.filter(codename__in=permissions)
    assert len(wanted) == len(permissions)
    found.user_permissions.set(wanted)
    client = Client()
    client.force_login(found)
    return client


def add(count: int = 1, state: State = State.TRANSFERRED, **columns: Any) -> list[QueuedFile]:
    first = QueuedFile.objects.count()
    defaults: dict[str, Any] = {"alias": "default", "host": "web-1", "saved_at": timezone.now()}
    return QueuedFile.objects.bulk_create(
        QueuedFile(**{"name": f"{first + number:04}.jpg", "state": state} | defaults | columns)
        for number in range(count)
    )


def listed(client: Client, **query: Any) -> list[str]:
    """The names on the page of results."""
    found = client.get(LIST, query)
    assert found.status_code == 200
    return [entry.name for entry in found.context["cl"].result_list]


def text_of(client: Client, url: str) -> str:
    found = client.get(url)
    assert found.status_code == 200
    return " ".join(re.sub(r"<[^>]+>", " ", found.content.decode()).replace("\xa0", " ").split())


def run(client: Client, action: str, rows: list[int], **data: Any) -> list[str]:
    """Run an action on rows. Return the messages."""
    data = {"action": action, "_selected_action": rows, "index": 0} | data
    answer = client.post(LIST, data, follow=True)
    return [str(message) for message in answer.context["messages"]]
