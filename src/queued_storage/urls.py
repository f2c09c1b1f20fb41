"""Addresses for ``include("queued_storage.urls")``."""

from django.urls import path

from . import serving, views
from .peers import PATH

app_name = "queued_storage"
urlpatterns = [
    path("health/", views.health, name="health"),
    path("files/<str:alias>/<path:name>", serving.file, name="file"),
    path(f"{PATH}<str:ticket>", views.local_copy, name="local_copy"),
]
