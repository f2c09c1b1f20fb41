"""Addresses for ``include("queued_storage.urls")``."""

from django.urls import path, re_path

from . import serving, views
from .peers import PATH

app_name = "queued_storage"
urlpatterns = [
    path("health/", views.health, name="health"),
    # Not as a <path:name>, which has no line breaks
    re_path(r"^files/(?P<alias>[^/]+)/(?P<name>[\s\S]+)\Z", serving.file, name="file"),
    path(f"{PATH}<str:ticket>", views.local_copy, name="local_copy"),
]
