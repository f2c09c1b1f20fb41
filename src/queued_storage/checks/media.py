"""Checks of who serves the local copies until they are on the remote."""

from collections.abc import Iterator
from typing import Any

from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Warning
from django.core.files.storage import FileSystemStorage
from django.urls import Resolver404, get_script_prefix, resolve
from django.views.static import serve

from ..runtime.documentation import see
from ..storage.composition import ComposedStorage
from .registration import check, side_problem, storages

ANY_NAME = "queued-storage-check.txt"  # of a file that need not exist


@check
def local_files_have_urls() -> Iterator[CheckMessage]:
    for storage in _with_direct_urls():
        # Django puts the prefix before the value of the setting.
        if _base_url(storage) == get_script_prefix() == django_settings.MEDIA_URL:
            yield Warning(
                f"{storage.alias}: MEDIA_URL is not set, so until a file is transferred its URL is "
                f"{_base_url(storage)!r} followed by its name, which nothing serves.",
                hint="Set MEDIA_URL, for example to 'media/', and serve MEDIA_ROOT there. "
                f"{see('quickstart#serve-the-local-copies')}",
                obj=storage,
                id="queued_storage.W012",
            )


@check
def local_files_are_served() -> Iterator[CheckMessage]:
    """By the URLconf, as long as there is no web server."""
    if django_settings.DEBUG:
        for storage, url in _unserved():
            yield Warning(
                f"{storage.alias}: until a file is transferred its URL begins with {url!r}, which "
                f"the URLconf does not serve.",
                hint="Add static(settings.MEDIA_URL, document_root=settings.MEDIA_ROOT) to your "
                f"URLconf. {see('quickstart#serve-the-local-copies')}",
                obj=storage,
                id="queued_storage.W013",
            )


@check(deploy=True)
def local_files_are_served_in_production() -> Iterator[CheckMessage]:
    """Django's static() does nothing there."""
    for storage, url in _unserved(is_debug_only=True):
        yield Warning(
            f"{storage.alias}: until a file is transferred its URL begins with {url!r}, which "
            f"Django does not serve if DEBUG is off.",
            hint="Let your web server serve it, then add 'queued_storage.W014' to "
            f"SILENCED_SYSTEM_CHECKS. {see('quickstart#go-to-production')}",
            obj=storage,
            id="queued_storage.W014",
        )


def _unserved(*, is_debug_only: bool = False) -> Iterator[tuple[ComposedStorage, str]]:
    """Yield the storages whose local files the URLconf doesn't serve, with their URL.

    With ``is_debug_only``, what Django serves for ``DEBUG`` only doesn't count.
    """
    for storage in _with_direct_urls():
        url = _base_url(storage)
        prefix = get_script_prefix()
        if url == prefix or not url.startswith(prefix):  # unset: W012; or on another host
            continue
        view = _view_of(f"/{url.removeprefix(prefix)}{ANY_NAME}")
        if view is None or (is_debug_only and django_settings.DEBUG and view is serve):
            yield storage, url


def _view_of(path: str) -> Any:
    try:
        return resolve(path).func
    except Resolver404:
        return None


def _with_direct_urls() -> Iterator[ComposedStorage]:
    if not hasattr(django_settings, "ROOT_URLCONF"):  # a worker needs none
        return
    for storage in storages():
        if storage.url_mode == "direct" and not storage.is_gated and _base_url(storage):
            yield storage


def _base_url(storage: ComposedStorage) -> str:
    """The URL of the local files; "" if they have none."""
    if side_problem(storage, "local") or not isinstance(storage.local, FileSystemStorage):
        return ""
    return storage.local.base_url or ""
