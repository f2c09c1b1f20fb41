"""Checks of the settings and of the options of each storage."""

from collections.abc import Iterator
from typing import Any

from django.conf import settings as django_settings
from django.core.cache import caches
from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..conf import settings
from ..ledger.aliases import known_storages
from ..runtime.documentation import see
from ..storage.routes import is_per_process
from .registration import ALWAYS, check, said_by, settings_problem, side_problem, storages


@ALWAYS.append
def settings_are_valid(**kwargs: Any) -> list[CheckMessage]:
    problem = settings_problem()
    return [Error(problem, hint=see("settings"), id="queued_storage.E001")] if problem else []


@check
def storages_have_aliases() -> Iterator[CheckMessage]:
    try:
        known_storages(strict=True)
    except Exception as error:
        yield Error(said_by(error), hint=see("storages#alias"), id="queued_storage.E003")


@check
def sides_exist() -> Iterator[CheckMessage]:
    for storage in storages():
        for side in ("local", "remote", "previous", "mirrors"):
            if problem := side_problem(storage, side):
                yield Error(
                    f"{storage.alias}: {problem}",
                    hint=see("storages#the-local-and-the-remote-storage"),
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
                hint=see("queues#available-queues"),
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
                hint=see("tasks#writing-a-task"),
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
            f"{see('private#authorize-each-request')}",
            id="queued_storage.E011",
        )


@check
def cache_exists() -> Iterator[CheckMessage]:
    if settings.cache is not None and settings.cache not in django_settings.CACHES:
        yield Error(
            f"QUEUED_STORAGE['CACHE'] is {settings.cache!r}, which isn't an alias in CACHES.",
            hint=f"Use an alias in CACHES, or None to use no cache. {see('settings')}",
            id="queued_storage.E008",
        )


@check
def chosen_cache_is_shared() -> Iterator[CheckMessage]:
    if settings.given("CACHE"):
        yield from _caches_of_each_process()


@check(production=True)
def default_cache_is_shared() -> Iterator[CheckMessage]:
    """That of a new project isn't, which is fine during development."""
    if not settings.given("CACHE") and storages():
        yield from _caches_of_each_process()


def _caches_of_each_process() -> Iterator[CheckMessage]:
    if settings.cache in django_settings.CACHES and is_per_process(caches[settings.cache]):
        yield Warning(
            f"The cache {settings.cache!r} is local to each process, so its entries are trusted "
            f"for a few seconds only.",
            hint="Set QUEUED_STORAGE['CACHE'] to a cache that all processes share, or to None. "
            f"{see('settings')}",
            id="queued_storage.W001",
        )
