"""Checks of who can read files at their URLs."""

from collections.abc import Iterator
from pathlib import Path

from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Warning
from django.core.files.storage import FileSystemStorage
from django.urls import NoReverseMatch, reverse

from ..remotes.expiry import signs
from ..runtime.documentation import see
from ..serving.links import VIEW
from ..storage.composition import ComposedStorage
from .registration import check, side_problem, storages


@check
def urls_are_included() -> Iterator[CheckMessage]:
    wanted = [each for each in storages() if each.url_mode != "direct" or each.is_gated]
    if not wanted or not hasattr(django_settings, "ROOT_URLCONF"):  # a worker needs none
        return
    try:
        reverse(VIEW, kwargs={"alias": "alias", "name": "name"})
    except NoReverseMatch:
        for storage in wanted:
            option = "url_mode" if storage.url_mode != "direct" else "publish"
            yield Error(
                f"{storage.alias}: {option} is {getattr(storage, option)!r}, but the URLconf "
                f"doesn't include 'queued_storage.urls'.",
                hint="Add path('queued/', include('queued_storage.urls')) to your URLconf. "
                f"{see('urls#turn-stable-urls-on')}",
                obj=storage,
                id="queued_storage.E010",
            )


@check(production=True)
def local_is_as_private_as_the_remote() -> Iterator[CheckMessage]:
    for storage in storages():
        is_wanted = storage.url_mode != "direct" or storage.is_direct_by_choice
        if is_wanted or not _has_public_urls(storage):
            continue
        if not side_problem(storage, "remote") and signs(*storage.sides.remote.specification()):
            yield Warning(
                f"{storage.alias}: the remote serves signed URLs, but until a file is "
                f"transferred it is served at an unsigned local URL.",
                hint="Set url_mode='signed', or 'direct' if all files are public. "
                f"{see('private#sign-the-urls-of-local-files')}",
                obj=storage,
                id="queued_storage.W005",
            )


def _has_public_urls(storage: ComposedStorage) -> bool:
    if side_problem(storage, "local"):
        return False
    local = storage.local
    return isinstance(local, FileSystemStorage) and local.base_url not in {None, "", "/"}


@check
def private_files_are_outside_media_root() -> Iterator[CheckMessage]:
    for storage in storages():
        if storage.url_mode == "signed" and is_in_media_root(storage):
            yield Warning(
                f"{storage.alias}: url_mode is 'signed', but its local files are in MEDIA_ROOT, "
                f"which the web server may serve publicly.",
                hint="Set a location outside of MEDIA_ROOT for the local storage. "
                f"{see('private#sign-the-urls-of-local-files')}",
                obj=storage,
                id="queued_storage.W006",
            )


def is_in_media_root(storage: ComposedStorage) -> bool:
    if not django_settings.MEDIA_ROOT or side_problem(storage, "local"):
        return False
    local = storage.local
    root = Path(django_settings.MEDIA_ROOT).resolve()
    if not isinstance(local, FileSystemStorage):
        return False
    return Path(local.location).resolve().is_relative_to(root)
