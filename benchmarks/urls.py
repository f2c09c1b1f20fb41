"""The URLs of a site: the admin, and the files that the package and Django serve."""

from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import include, path, re_path
from django.views.static import serve


def bare(request: HttpRequest, path: str) -> HttpResponse:
    """Have nginx send a file without a look at anything."""
    return HttpResponse(headers={"X-Accel-Redirect": f"/protected/{path}"})


urlpatterns = [
    path("admin/", admin.site.urls),
    path("queued/", include("queued_storage.urls")),
    re_path("^media/(?P<path>.*)$", serve, {"document_root": settings.MEDIA_ROOT}),
    path("bare/<path:path>", bare),
]
