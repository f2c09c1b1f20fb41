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
from ..runtime.documentation import see
from ..storage.composition import ComposedStorage
from ..storage.places import Clash, Kind, clash_of
from ..storage.sides import Side
from .registration import check, side_problem, storages


@check
def sides_differ() -> Iterator[CheckMessage]:
    for storage, clash in _clashes():
        if clash.kind is not Kind.INSIDE:
            yield Error(
                f"{storage.alias}: {clash.reason}",
                hint="Change the location or the bucket of one of them. "
                f"{see('storages#the-local-and-the-remote-storage')}",
                obj=storage,
                id="queued_storage.E005",
            )


@check
def no_side_is_inside_the_other() -> Iterator[CheckMessage]:
    for storage, clash in _clashes():
        if clash.kind is Kind.INSIDE:
            yield Error(
                f"{storage.alias}: {clash.reason}",
                hint="Give each a location of its own. "
                f"{see('storages#the-local-and-the-remote-storage')}",
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
                f"directory for uploaded files only. {see('quickstart#configure-the-storages')}",
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
                f"{see('storages#the-local-and-the-remote-storage')}",
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
def sides_are_not_swapped() -> Iterator[CheckMessage]:
    found = storages()
    tiers = {side.alias for storage in found for side in storage.sides if side.name != "local"}
    for storage in found:
        names = [side.name for side in (storage.sides.local, storage.sides.remote)]
        if storage.alias in tiers or any(side_problem(storage, name) for name in names):
            continue  # the local side of a tier may be anywhere; E004 reports problems
        if _is_over_the_network(storage.sides.local) and not _is_over_the_network(
            storage.sides.remote
        ):
            yield Warning(
                f"{storage.alias}: the local storage has no path() on this machine, but the remote "
                f"storage has: 'local' and 'remote' seem to be swapped. Each save would wait for "
                f"the network.",
                hint="Let 'local' be the storage on the disk, and 'remote' the other one. "
                f"{see('storages#the-local-and-the-remote-storage')}",
                obj=storage,
                id="queued_storage.W011",
            )


def _is_over_the_network(side: Side) -> bool:
    """Whether its files have no paths on this machine, also not in its memory."""
    path, _options = side.specification()
    if isinstance(path, str) and path.startswith(LIBRARY):
        return True
    return type(side.storage).path is Storage.path


@check
def volumes_are_mounted() -> Iterator[CheckMessage]:
    for storage in storages():
        problem = ""
        with suppress(Exception):  # the ledger cannot be asked, or E004 reports it
            problem = volumes.problem_of(storage.alias, storage.local)
        if problem:
            yield Warning(
                problem,
                hint=see("disasters#lost-disk"),
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
                f"{see('storages#the-local-and-the-remote-storage')}",
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
