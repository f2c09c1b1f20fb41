"""Checks of settings that an upgrade from an earlier version leaves behind."""

from collections.abc import Iterator
from typing import Any

from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Warning
from django.core.files.storage import storages
from django.utils.module_loading import import_string

from ..runtime.documentation import see
from ..storage.composition import ComposedStorage
from .registration import check


@check
def default_storage_is_in_storages() -> Iterator[CheckMessage]:
    path = getattr(django_settings, "DEFAULT_FILE_STORAGE", None)
    configured: dict[str, Any] = storages.backends
    default = configured.get("default", {}).get("BACKEND")
    if _is_queued(path) and not _is_queued(default):
        yield Warning(
            f"DEFAULT_FILE_STORAGE is {path!r}, but Django 5.1 and newer ignore this setting: "
            f"files are saved to {default!r}, and are not transferred.",
            hint=f"Move it to STORAGES['default']. {see('upgrading#upgrade-your-project')}",
            id="queued_storage.W016",
        )


def _is_queued(path: object) -> bool:
    try:
        found = import_string(path)  # type: ignore[arg-type]  # whatever the project has set
    except (AttributeError, ImportError):
        return False
    return isinstance(found, type) and issubclass(found, ComposedStorage)
