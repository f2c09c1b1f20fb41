"""Which storage is meant by an alias in the ledger."""

import hashlib
import json
import sys
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress
from inspect import Parameter, signature
from types import FrameType
from typing import Any, ClassVar

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import Storage, storages
from django.utils.module_loading import import_string

from ..exceptions import UnknownAlias
from ..reporting.logs import logger

ALIAS_MAX_LENGTH = 64


class AliasedStorage(Storage):
    """A storage that has a name in the ledger.

    The name is the option ``alias``; else the key in ``STORAGES``, found by comparing since Django
    does not tell it; else, for a storage made inline, a fingerprint of its configuration. It is
    derived when it is first needed, and the storage is known to ``storage_for()`` from then on.
    """

    _instances: ClassVar["weakref.WeakSet[AliasedStorage]"] = weakref.WeakSet()

    def __init__(self, alias: str | None) -> None:
        if alias is not None and not (
            isinstance(alias, str) and 0 < len(alias) <= ALIAS_MAX_LENGTH
        ):
            raise ImproperlyConfigured(
                f"alias={alias!r}: give a text of 1 to {ALIAS_MAX_LENGTH} characters."
            )
        self._given_alias = alias
        self._alias: str | None = None
        self._is_historical = _is_made_by_a_migration()
        if not self._is_historical:
            AliasedStorage._instances.add(self)

    def __getstate__(self) -> dict[str, Any]:
        """A copy has the same name, though it is not the object that stands in ``STORAGES``."""
        with suppress(ImproperlyConfigured):
            return self.__dict__ | {"_given_alias": self.alias, "_alias": None}
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not self._is_historical:
            AliasedStorage._instances.add(self)

    def configuration(self) -> Any:
        """What makes this storage another one than its neighbour, as JSON takes it."""
        raise NotImplementedError  # Django's Storage has no metaclass that asks for abstract ones

    def fingerprint(self) -> str:
        text = json.dumps(self.configuration(), sort_keys=True, default=repr)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def can_be_told_from(self, other: "AliasedStorage") -> bool:
        """Whether equal fingerprints mean that the two are made alike."""
        return True

    @property
    def variant(self) -> str:
        """What tells apart two storages of one alias, which work on the same files differently."""
        return ""

    @property
    def alias(self) -> str:
        """The storage's name in the ledger.

        ``ImproperlyConfigured`` is raised if another storage has it already.
        """
        if self._alias is None:
            _require_app()
            alias = self._given_alias or _key_of(self) or f"inline-{self.fingerprint()}"
            if not self._is_historical:
                _register(alias, self)
            self._alias = alias
        return self._alias


def keeps_its_key(cls: Any) -> Any:
    """Have ``deconstruct()`` tell the key in ``STORAGES``, by which who makes the storage anew from
    that, in a task or a migration, gets to the same rows.

    A decorator, since Django's ``deconstructible`` puts its method over one in the class body.
    """
    plain = cls.deconstruct

    def deconstruct(self: AliasedStorage) -> tuple[str, Sequence[Any], dict[str, Any]]:
        path, args, options = plain(self)
        key = self._given_alias or _key_of(self)
        if key and "alias" not in options and _takes_alias(type(self)):
            options = {**options, "alias": key}
        return path, args, options

    cls.deconstruct = deconstruct
    return cls


def _takes_alias(cls: Any) -> bool:
    parameters = signature(cls.__init__).parameters.values()
    return any(each.name == "alias" or each.kind is Parameter.VAR_KEYWORD for each in parameters)


def _is_made_by_a_migration() -> bool:
    """Whether the body of a class ``Migration`` is being run.

    A field in it has the options of its time. Its storage must not take the alias of the one that
    the model has today: ``test`` and ``runserver`` import the migrations, too.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "Migration" and "__qualname__" in frame.f_locals:
            return True
        frame = frame.f_back
    return False


class _Inline:
    """The storages that no key of ``STORAGES`` leads to."""

    def __init__(self) -> None:
        self.alive: weakref.WeakValueDictionary[str, AliasedStorage] = weakref.WeakValueDictionary()
        # A worker's thread may need a storage that the view which made it has dropped: by alias
        # and variant.
        self.kept: dict[str, dict[str, AliasedStorage]] = {}

    def holder(self, alias: str, storage: AliasedStorage) -> AliasedStorage | None:
        """Who has the alias, apart from storages that only we keep alive and that are others."""
        holder = self.alive.get(alias)
        if holder is None or _are_known_to_be_same(storage, holder):
            return holder
        del holder
        self.kept.pop(alias, None)
        if holder := self.alive.get(alias):
            self._keep(alias, holder)
        return holder

    def add(self, alias: str, storage: AliasedStorage) -> None:
        self.alive[alias] = storage
        self._keep(alias, storage)

    def _keep(self, alias: str, storage: AliasedStorage) -> None:
        variant = ""
        with suppress(ImproperlyConfigured):  # of its task, which its checks and saves tell
            variant = storage.variant
        self.kept.setdefault(alias, {})[variant] = storage


_inline = _Inline()


def storage_for(alias: str, variant: str = "") -> AliasedStorage:
    """The storage of this alias, of several the one of this variant.

    ``UnknownAlias`` is raised if no storage of this process has the alias.
    """
    found = _find(alias)
    if not variant or found.variant == variant:
        return found
    twins = (other for other in living_storages() if _has_alias(other, alias))
    return next((twin for twin in twins if twin.variant == variant), found)


def _has_alias(storage: AliasedStorage, alias: str) -> bool:
    try:
        return storage.alias == alias
    except ImproperlyConfigured:  # not the one that is looked for, or the checks say it
        return False


def _find(alias: str) -> AliasedStorage:
    for storage in configured_storages():
        if storage._given_alias == alias or _has_alias(storage, alias):
            _ = storage.alias  # raises if another one has it, too
            return storage
    if inline := _inline.alive.get(alias):
        return inline
    for unused in living_storages():
        if unused._alias is None and _has_alias(unused, alias):
            return unused
    if alias in storages.backends:
        _require_made(alias)
    raise UnknownAlias(
        f"No storage with the alias {alias!r} is known here. Name it in STORAGES, "
        f"or see to it that the module which makes it is imported by every worker."
    )


def known_storages(*, strict: bool = False) -> list[AliasedStorage]:
    """Every storage with a ledger that this process knows, one per alias.

    One whose configuration is wrong is left out, so that the others go on; or the error is
    raised, if ``strict``.
    """
    found = {}
    for storage in [*living_storages(), *configured_storages(strict=strict)]:
        try:
            found[storage.alias] = storage
        except ImproperlyConfigured as error:
            if strict:
                raise
            logger.error("%s", error)
    return list(found.values())


def living_storages() -> list[AliasedStorage]:
    """All that are in use, whether or not they have their alias yet."""
    while True:
        with suppress(RuntimeError):  # another thread made one at this moment
            return list(AliasedStorage._instances)


def configured_storages(*, strict: bool = False) -> Iterator[AliasedStorage]:
    """Those of ``STORAGES``, looked up anew each time, for ``override_settings``.

    One that cannot be made is left out, so that the others go on; or the error is raised, if
    ``strict``.
    """
    for key in _configured_keys():
        try:
            storage = storages[key]
        except Exception:
            if strict:
                raise
            continue
        if isinstance(storage, AliasedStorage):
            yield storage


def _require_made(key: str) -> None:
    try:
        _ = storages[key]
    except Exception as error:
        raise UnknownAlias(
            f"STORAGES[{key!r}] cannot be made ({type(error).__name__}). Run 'manage.py check'."
        ) from error


def _configured_keys() -> Iterator[str]:
    backends: dict[str, Any] = storages.backends
    for key, parameters in backends.items():
        path = parameters.get("BACKEND")
        if str(path).startswith(("django.", "storages.")):
            continue  # not ours, and a cloud library need not be imported to find that out
        try:
            backend = import_string(path)
        except Exception:
            continue  # the project's own trouble with a storage that is not ours
        if isinstance(backend, type) and issubclass(backend, AliasedStorage):
            yield key


def _key_of(storage: AliasedStorage) -> str | None:
    """The key in ``STORAGES`` under which the storage is, or else the one whose entry it was made
    from: packages with a ``StorageHandler`` of their own have a second instance."""
    own = (key for key, made in _made_storages() if made is storage)
    alike = (key for key, made in _made_storages() if _are_made_alike(storage, made))
    return next(own, None) or next(alike, None)


def _made_storages() -> Iterator[tuple[str, Storage]]:
    """Those of ``STORAGES`` by their keys, but for any that cannot be made."""
    for key in _configured_keys():
        try:
            made = storages[key]
        except Exception:
            continue
        yield key, made


def _are_made_alike(one: Any, other: Any) -> bool:
    # What Django's @deconstructible keeps of the call
    return type(one) is type(other) and bool(one._constructor_args == other._constructor_args)


def _require_app() -> None:
    if not apps.is_installed("queued_storage"):
        raise ImproperlyConfigured(
            "Add 'queued_storage' to INSTALLED_APPS and run 'manage.py migrate': a queued storage "
            "keeps its ledger in the database."
        )


def _register(alias: str, storage: AliasedStorage) -> None:
    is_configured = _key_of(storage) is not None
    for other in configured_storages():
        taken = other._given_alias or _key_of(other)
        if other is not storage and taken == alias:
            _refuse_unless_same(alias, storage, other)
            return
    if is_configured:
        return
    holder = _inline.holder(alias, storage)
    if holder and holder is not storage:
        _refuse_unless_same(alias, storage, holder)
    _inline.add(alias, storage)


def _are_known_to_be_same(one: AliasedStorage, other: AliasedStorage) -> bool:
    return one.fingerprint() == other.fingerprint() and one.can_be_told_from(other)


def _refuse_unless_same(alias: str, one: AliasedStorage, other: AliasedStorage) -> None:
    if one.fingerprint() != other.fingerprint():
        raise ImproperlyConfigured(
            f"Two queued storages with different configurations share the alias {alias!r}, so "
            f"the ledger would mix up their files. Give each an alias of its own: the option "
            f"alias='…', or a key of its own in STORAGES."
        )
    if not one._given_alias and not one.can_be_told_from(other):
        raise ImproperlyConfigured(
            "Two queued storages look alike, since one of their sides does not show how it is "
            "made, so the ledger might mix up their files. Give each an alias='…', or decorate the "
            "class of that side with django.utils.deconstruct.deconstructible."
        )
