"""Checks of the steps that files have to pass, and of the gate before them."""

from collections.abc import Iterator

from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured

from ..files.localfiles import has_paths
from ..runtime.documentation import see
from .privacy import is_in_media_root
from .registration import check, said_by, side_problem, storages

PAGE = see("steps#scan-uploads")


@check
def steps_can_be_made() -> Iterator[CheckMessage]:
    for storage in storages():
        try:
            _ = storage.steps
        except ImproperlyConfigured as error:
            yield Error(
                f"{storage.alias}: {said_by(error)}",
                hint=PAGE,
                obj=storage,
                id="queued_storage.E017",
            )


@check
def unpublished_files_are_not_served_by_others() -> Iterator[CheckMessage]:
    for storage in storages():
        if storage.is_gated and is_in_media_root(storage):
            yield Error(
                f"{storage.alias}: publish is 'after_steps', but its local files are in "
                f"MEDIA_ROOT, which the web server may serve past this project.",
                hint=f"Set a location outside of MEDIA_ROOT for the local storage. {PAGE}",
                obj=storage,
                id="queued_storage.E018",
            )


@check
def local_can_hide_files() -> Iterator[CheckMessage]:
    for storage in storages():
        if not storage.is_gated or side_problem(storage, "local"):
            continue  # E004 reports it
        if not has_paths(storage.local):
            yield Error(
                f"{storage.alias}: publish is 'after_steps', but the local storage is not a "
                f"FileSystemStorage, so it cannot keep files hidden.",
                hint=PAGE,
                obj=storage,
                id="queued_storage.E019",
            )
