from django.contrib import admin
from django.http import FileResponse, HttpRequest
from django.shortcuts import get_object_or_404
from django.urls import include, path

from .library.api import RawUpload, router
from .library.models import Paper


def download(request: HttpRequest, pk: int) -> FileResponse:
    return FileResponse(get_object_or_404(Paper, pk=pk).file.open(), as_attachment=True)


def upload_and_fail(request: HttpRequest) -> None:
    Paper.objects.create(file=request.FILES["file"])
    raise RuntimeError("The request failed after the save.")


urlpatterns = [
    path("admin/", admin.site.urls),
    path("api/", include(router.urls)),
    path("api/uploads/", include("s3_file_field.urls")),
    path("raw/<str:filename>", RawUpload.as_view()),
    path("download/<int:pk>/", download),
    path("upload-and-fail/", upload_and_fail),
]
