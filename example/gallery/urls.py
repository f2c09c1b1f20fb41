from django.conf import settings
from django.urls import include, path
from django.views.static import serve

from . import views

urlpatterns = [
    path("", views.page, name="page"),
    path("state/", views.state, name="state"),
    path("upload/", views.upload, name="upload"),
    path("delete/<int:pk>/", views.delete, name="delete"),
    path("s3/", views.switch_s3, name="switch_s3"),
    path("line/", views.switch_line, name="switch_line"),
    path("queued/", include("queued_storage.urls")),
]
if not settings.SCAN:  # otherwise no file may be served past the storage
    urlpatterns.append(path("media/<path:path>", serve, {"document_root": settings.DATA / "disk"}))
