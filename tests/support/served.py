"""A site that is served by a server of its own: each request saves a file."""

import os
from typing import Any

from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path


def save(request: HttpRequest, name: str) -> HttpResponse:
    default_storage.save(name, ContentFile(b"data"))
    return HttpResponse(str(os.getpid()))


urlpatterns = [path("save/<name>", save)]


def with_threads() -> Any:
    """Return the application, after the threads of this process have transferred a file."""
    application = get_wsgi_application()
    name = default_storage.save("early.txt", ContentFile(b"data"))
    default_storage.wait([name], timeout=30)  # type: ignore[attr-defined]
    return application
