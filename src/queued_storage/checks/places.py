"""Checks of where the two sides of a storage keep their files."""

from collections.abc import Iterator
from contextlib import suppress
from inspect import signature
from typing import Any, cast

from django.core.checks import CheckMessage, Error, Warning
from django.core.files.storage import FileSystemStorage, Storage

from ..files import volumes
from ..operations.roots import Danger, danger_of
from ..remotes.classes import LIBRARY
from ..storage.composition import ComposedStorage
from ..storage.places import Clash, Kind, clash_of
from .registration import check, side_problem, storages


@check
def sides_differ() -> Iterator[CheckMessage]:
    for storage, clash in _clashes():
        if clash.kind is not Kind.INSIDE:
            yield Error(
                f"{storage.alias}: {clash.reason}",
                hint="Change the location or the bucket of one of them. "
                "See the docs, under 'Storages'.",
                obj=storage,
                id="queued_storage.E005",
            )


@check
def no_side_is_inside_the_other() -> Iterator[CheckMessage]:
    for storage, clash in _clashes():
        if clash.kind is Kind.INSIDE:
            yield Error(
                f"{storage.alias}: {clash.reason}",
                hint="Give each a location of its own. See the docs, under 'Storages'.",
                obj=storage,
                id="queued_storage.E014",
            )


def _clashes() -> Iterator[tuple[ComposedStorage, Clash]]:
    for storage in storages():
        names = ("local", "remote", "previous", "mirrors")
        if any(side_problem(storage, name) for name in names):
            continue  # E004 reports it
        try:
            clash = clash_of(storage.sides)
        except Exception:  # a side of a side cannot be made; E004 reports it for that storage
            continue
        if clash:
            yield storage, clash


@check
def roots_are_set() -> Iterator[CheckMessage]:
    for storage, side, danger in _dangers():
        if danger.is_unset:
            yield Error(
                f"{storage.alias}: the {side} storage {danger.reason}",
                hint="Set MEDIA_ROOT, or the option 'location', to the absolute path of a "
                "directory for uploaded files only. See the docs, under 'Quickstart'.",
                obj=storage,
                id="queued_storage.E012",
            )


@check
def roots_hold_uploaded_files_only() -> Iterator[CheckMessage]:
    for storage, side, danger in _dangers():
        if not danger.is_unset:
            yield Error(
                f"{storage.alias}: the {side} storage {danger.reason} Operations on all files "
                f"would upload or delete it.",
                hint="Change its location, or MEDIA_ROOT, to a directory for uploaded files only. "
                "See the docs, under 'Storages'.",
                obj=storage,
                id="queued_storage.E013",
            )


def _dangers() -> Iterator[tuple[ComposedStorage, str, Danger]]:
    for storage in storages():
        for side in ("local", "remote"):
            path, _options = getattr(storage.sides, side).specification()
            if isinstance(path, str) and path.startswith(LIBRARY):
                continue  # has no paths, and takes long to import
            if side_problem(storage, side):
                continue  # E004 reports it
            if danger := danger_of(getattr(storage, side)):
                yield storage, side, danger


@check
def volumes_are_mounted() -> Iterator[CheckMessage]:
    for storage in storages():
        problem = ""
        with suppress(Exception):  # the ledger cannot be asked, or E004 reports it
            problem = volumes.problem_of(storage.alias, storage.local)
        if problem:
            yield Warning(
                problem,
                hint="See the docs, under 'Disasters'.",
                obj=storage,
                id="queued_storage.W009",
            )


@check
def local_does_not_overwrite() -> Iterator[CheckMessage]:
    for storage in storages():
        if not side_problem(storage, "local") and _allows_overwriting(storage.local):
            yield Warning(
                f"{storage.alias}: the local storage has allow_overwrite, which has no effect: "
                f"a new file never replaces an existing one.",
                hint="Remove allow_overwrite. To overwrite a file, open it for writing. "
                "See the docs, under 'Storages'.",
                obj=storage,
                id="queued_storage.W002",
            )


def _allows_overwriting(local: Storage) -> bool:
    if not isinstance(local, FileSystemStorage):
        return False
    try:
        _path, args, options = cast(Any, local).deconstruct()
    except ValueError:  # the class cannot be imported from its module
        return False
    given = signature(type(local)).bind_partial(*args).arguments | options
    return bool(given.get("allow_overwrite"))
