"""The URLs of the app, for ``include("queued_storage.urls")``."""

from django.urls import path, re_path

from . import health
from .ledger.installation import require_app
from .serving import views
from .serving.peers import PATH

require_app()

app_name = "queued_storage"
urlpatterns = [
    path("health/", health.health, name="health"),
    # A <path:name> does not match line breaks.
    re_path(r"^files/(?P<alias>[^/]+)/(?P<name>[\s\S]+)\Z", views.file, name="file"),
    path(f"{PATH}<str:ticket>", views.local_copy, name="local_copy"),
]
