"""Checks of the settings and of the options of each storage."""

from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core.cache import caches
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..conf import settings
from ..ledger.aliases import known_storages
from ..storage.routes import is_per_process
from .registration import check, said_by, settings_problem, side_problem, storages


@register("queued_storage")
def settings_are_valid(**kwargs: Any) -> list[CheckMessage]:
    problem = settings_problem()
    return (
        [Error(problem, hint="See the docs, under 'Settings'.", id="queued_storage.E001")]
        if problem
        else []
    )


@check
def app_is_installed() -> Iterator[CheckMessage]:
    if not apps.is_installed("queued_storage"):
        yield Error(
            "queued_storage is used, but it is not in INSTALLED_APPS.",
            hint="Add 'queued_storage' to INSTALLED_APPS and run 'manage.py migrate'. "
            "See the docs, under 'Quickstart'.",
            id="queued_storage.E002",
        )


@check
def storages_have_aliases() -> Iterator[CheckMessage]:
    try:
        known_storages(strict=True)
    except Exception as error:
        yield Error(
            said_by(error), hint="See the docs, under 'Storages'.", id="queued_storage.E003"
        )


@check
def sides_exist() -> Iterator[CheckMessage]:
    for storage in storages():
        for side in ("local", "remote", "previous", "mirrors"):
            if problem := side_problem(storage, side):
                yield Error(
                    f"{storage.alias}: {problem}",
                    hint="See the docs, under 'Storages'.",
                    obj=storage,
                    id="queued_storage.E004",
                )


@check
def queues_can_be_built() -> Iterator[CheckMessage]:
    for storage in storages():
        try:
            _ = storage.queue
        except ImproperlyConfigured as error:
            yield Error(
                f"{storage.alias}: {said_by(error)}",
                hint="See the docs, under 'Queues'.",
                obj=storage,
                id="queued_storage.E006",
            )


@check
def tasks_are_tasks() -> Iterator[CheckMessage]:
    for storage in storages():
        try:
            _ = storage.task
        except ImproperlyConfigured as error:
            yield Error(
                f"{storage.alias}: {said_by(error)}",
                hint="See the docs, under 'Tasks'.",
                obj=storage,
                id="queued_storage.E007",
            )


@check
def permission_is_callable() -> Iterator[CheckMessage]:
    if not isinstance(settings.permission, str):
        return
    try:
        is_callable = callable(import_string(settings.permission))
    except ImportError:
        is_callable = False
    if not is_callable:
        yield Error(
            f"QUEUED_STORAGE['PERMISSION'] must be the dotted path of a callable; "
            f"{settings.permission!r} cannot be imported.",
            hint="Use the path of a callable (request, queued_file) -> bool. "
            "See the docs, under 'Private files'.",
            id="queued_storage.E011",
        )


@check
def cache_exists() -> Iterator[CheckMessage]:
    if settings.cache is not None and settings.cache not in django_settings.CACHES:
        yield Error(
            f"QUEUED_STORAGE['CACHE'] is {settings.cache!r}, which isn't an alias in CACHES.",
            hint="Use an alias in CACHES, or None to use no cache. See the docs, under 'Settings'.",
            id="queued_storage.E008",
        )


@check
def cache_is_shared() -> Iterator[CheckMessage]:
    if settings.cache not in django_settings.CACHES:
        return
    # The default cache of a new project is fine during development.
    matters = settings.given("CACHE") or (storages() and not django_settings.DEBUG)
    if matters and is_per_process(caches[settings.cache]):
        yield Warning(
            f"The cache {settings.cache!r} is local to each process, so its entries are trusted "
            f"for a few seconds only.",
            hint="Set QUEUED_STORAGE['CACHE'] to a cache that all processes share, or to None. "
            "See the docs, under 'Settings'.",
            id="queued_storage.W001",
        )
