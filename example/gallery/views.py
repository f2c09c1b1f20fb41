import time
from typing import Any

from django.conf import settings
from django.core.files.storage import default_storage
from django.db import transaction
from django.forms import modelform_factory
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.utils import timezone
from django.utils.text import capfirst
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_POST, require_safe

from line import BYTES_PER_SECOND
from queued_storage.models import QueuedFile, Remote

from .models import Picture

PictureForm = modelform_factory(Picture, fields=["image"])

State = QueuedFile.State


@ensure_csrf_cookie
@require_safe
def page(request: HttpRequest) -> HttpResponse:
    return _render(request)


def _render(request: HttpRequest, errors: list[str] | None = None) -> HttpResponse:
    context = {
        **_state(),
        "errors": errors or [],
        "server": settings.S3.name,
        "speed": BYTES_PER_SECOND // 1024,
    }
    return render(request, "gallery/page.html", context, status=400 if errors else 200)


@require_safe
def state(request: HttpRequest) -> JsonResponse:
    return JsonResponse(_state())


@require_POST
def upload(request: HttpRequest) -> HttpResponse:
    """Save images as any view would. Nothing in here knows about S3."""
    errors = []
    for file in request.FILES.getlist("image"):
        form = PictureForm(files={"image": file})
        if form.is_valid():
            start = time.perf_counter()
            with transaction.atomic():
                picture = form.save()
            picture.saved_in_ms = (time.perf_counter() - start) * 1000
            picture.save()
        else:
            errors += [f"{file.name}: {error}" for error in form.errors["image"]]
    if "application/json" in request.headers.get("Accept", ""):
        return JsonResponse({"errors": errors}, status=400 if errors else 200)
    return _render(request, errors) if errors else redirect("page")


@require_POST
def delete(request: HttpRequest, pk: int) -> HttpResponse:
    picture = get_object_or_404(Picture, pk=pk)
    with transaction.atomic():
        picture.image.delete(save=False)
        picture.delete()
    return redirect("page")


@require_POST
def switch_s3(request: HttpRequest) -> HttpResponse:
    if request.POST.get("on") == "1":
        settings.S3.start()
    else:
        settings.S3.stop()
    return redirect("page")


@require_POST
def switch_line(request: HttpRequest) -> HttpResponse:
    settings.S3.line.slow = request.POST.get("on") == "1"
    return redirect("page")


# What the page shows, as text. Its JavaScript only inserts it.


def _state() -> dict[str, Any]:
    rows = list(QueuedFile.objects.order_by("-pk"))
    pictures = {picture.image.name: picture for picture in Picture.objects.all()}
    remote = Remote.objects.exclude(state=Remote.State.OPEN).first()
    urls = default_storage.urls(row.name for row in rows if row.name in pictures)
    files = [
        _file(row, pictures.get(row.name), urls.get(row.name, ""), remote is not None)
        for row in rows
    ]
    living = [row for row in rows if row.state != State.DELETING]
    return {
        "s3_is_up": settings.S3.is_up,
        "remote": _remote(remote) if remote else _last_error(rows),
        "line_is_slow": settings.S3.line.slow,
        "files": files,
        "total": len(living),
        "total_size": filesizeformat(sum(row.size for row in living)),
        "transferred": sum(row.state == State.TRANSFERRED for row in living),
        "transferring": sum(row.state == State.TRANSFERRING for row in living),
        "pending": sum(row.state == State.PENDING for row in living),
    }


def _remote(remote: Remote) -> str:
    """What the ledger knows of S3: one state for all files."""
    now = timezone.now()
    text = f"S3 has been {remote.get_state_display()} for {(now - remote.since).seconds} s"
    if remote.next_probe_at:
        left = round((remote.next_probe_at - now).total_seconds())
        text += f", next probe in {left} s" if left > 0 else ", it is being probed"
    return f"{text}. {remote.last_error}"


def _last_error(rows: list[QueuedFile]) -> str:
    """What fails while the ledger still takes S3 for open: that may be one file's own fault."""
    errors = [row.last_error for row in rows if row.last_error and row.state != State.FAILED]
    return f"The last attempt failed. {errors[0]}" if errors else ""


def _file(row: QueuedFile, picture: Picture | None, url: str, waits_for_s3: bool) -> dict[str, Any]:
    if row.state in (State.PREPARING, State.REJECTED):
        url = ""
    place = "" if not url else "s3" if row.is_remote else "local"
    return {
        "key": row.pk,
        "name": row.name.removeprefix("pictures/"),
        "size": filesizeformat(row.size),
        "state": str(row.state),
        "label": capfirst(row.get_state_display()),
        "percent": _percent(row),
        "place": place,
        "served": _served(place),
        "url": url,
        "note": _note(row, picture, waits_for_s3),
        "error": _error(row),
        "delete": reverse("delete", args=[picture.pk]) if picture else "",
    }


def _error(row: QueuedFile) -> str:
    if row.state == State.REJECTED:
        return default_storage.rejection(row.name) or ""
    return row.last_error if row.state == State.FAILED else ""


def _served(place: str) -> str:
    if place == "s3":
        return "served from S3" if settings.S3.is_up else "served from S3 (down)"
    return "served from the local disk" if place else ""


def _percent(row: QueuedFile) -> int:
    if row.state == State.TRANSFERRED:
        return 100
    if row.state == State.TRANSFERRING and row.size:
        return min(100 * row.sent // row.size, 99)
    return 0


def _note(row: QueuedFile, picture: Picture | None, waits_for_s3: bool) -> str:
    parts = []
    if picture and picture.saved_in_ms is not None:
        parts.append(f"saved in {picture.saved_in_ms:.0f} ms")
    if row.state == State.TRANSFERRED and row.transferred_at:
        seconds = (row.transferred_at - row.saved_at).total_seconds()
        parts.append(f"transferred after {seconds:.1f} s")
    if waits_for_s3:
        parts += ["waits for S3"] if row.state != State.TRANSFERRED else []
        return " · ".join(parts)
    if row.attempts > 1:
        parts.append(f"{row.attempts} attempt{'s' if row.attempts != 1 else ''}")
    if row.last_error and row.due_at and not row.lease_token:
        left = round((row.due_at - timezone.now()).total_seconds())
        parts.append(f"next attempt in {left} s" if left > 0 else "next attempt is due")
    return " · ".join(parts)
