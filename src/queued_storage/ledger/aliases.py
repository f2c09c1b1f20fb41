"""Find the storage that an alias in the ledger stands for."""

import hashlib
import inspect
import json
import weakref
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import Storage, storages
from django.utils.module_loading import import_string

from ..exceptions import UnknownAlias
from ..reporting.logs import logger
from ..runtime.forks import ForkSafeLock
from .installation import require_app

ALIAS_MAX_LENGTH = 64

Construction = tuple[str, Sequence[Any], dict[str, Any]]  # path, arguments, options


class AliasedStorage(Storage):
    """A storage whose files the ledger knows by an alias.

    The alias is the option ``alias``, or else the storage's key in ``STORAGES``, or else, for a
    storage made inline, a fingerprint of its configuration. Django doesn't tell a storage its
    key, so the key is found by comparing. The alias is derived when it is first needed; from then
    on ``storage_for()`` finds the storage.
    """

    def __init__(self, alias: str | None) -> None:
        if alias is not None and not (
            isinstance(alias, str) and 0 < len(alias) <= ALIAS_MAX_LENGTH
        ):
            raise ImproperlyConfigured(
                f"alias must be a string of 1 to {ALIAS_MAX_LENGTH} characters, not {alias!r}."
            )
        self._given_alias = alias
        self._alias: str | None = None
        self._kept_alias: str | None = None
        self._is_historical = _is_made_by_a_migration()
        if not self._is_historical:
            registry.add(self)

    def __getstate__(self) -> dict[str, Any]:
        """A copy keeps the alias, although it isn't the object in ``STORAGES``."""
        with suppress(ImproperlyConfigured):
            own = {"_given_alias": self.alias, "_alias": None, "_kept_alias": None}
            return self.__dict__ | own
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not self._is_historical:
            registry.add(self)

    def configuration(self) -> Any:
        """The options that decide where files are stored, for JSON."""
        raise NotImplementedError  # Django's Storage has no metaclass for abstract methods

    def _construction(self) -> Construction:
        """How the storage was made, as its class is decorated with ``deconstructible``."""
        raise NotImplementedError  # for the same reason

    def fingerprint(self) -> str:
        text = json.dumps(self.configuration(), sort_keys=True, default=repr)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def can_be_told_from(self, other: "AliasedStorage") -> bool:
        """Whether equal fingerprints prove that the two storages use the same places."""
        return True

    @property
    def variant(self) -> str:
        """What tells apart storages of one alias that process its files in different ways."""
        return ""

    @property
    def alias(self) -> str:
        """The storage's name in the ledger.

        ``ImproperlyConfigured`` is raised if the alias belongs to another storage.
        """
        if self._alias is None:
            require_app()
            alias = self._derived_alias()
            if not self._is_historical:
                registry.register(alias, self)
            self._alias = alias
        return self._alias

    @property
    def _unregistered_alias(self) -> str:
        """The alias, without letting it stand for this storage from now on."""
        if self._alias is not None:
            return self._alias
        if self._kept_alias is None:
            self._kept_alias = self._derived_alias()
        return self._kept_alias

    def _derived_alias(self) -> str:
        return self._given_alias or key_of(self) or f"inline-{self.fingerprint()}"

    @property
    def _named_alias(self) -> str:
        """The alias that the project has given; "" for a storage known by its fingerprint."""
        return self._given_alias or key_of(self) or ""

    def _has_alias(self, alias: str) -> bool:
        """Whether this is the alias; False if the storage has none because of a conflict."""
        try:
            return self.alias == alias
        except ImproperlyConfigured:  # a system check reports it
            return False


def keeps_its_key(cls: Any) -> Any:
    """Make ``deconstruct()`` include the key in ``STORAGES``.

    A storage that is rebuilt from that, in a task or a migration, then maps to the same rows.

    It is a decorator because Django's ``deconstructible`` replaces a method of the class body.
    """
    cls._construction = cls.deconstruct

    def deconstruct(self: AliasedStorage) -> Construction:
        path, args, options = self._construction()
        alias = self._named_alias
        if alias and "alias" not in options and _takes_alias(type(self)):
            options = {**options, "alias": alias}
        return path, args, options

    cls.deconstruct = deconstruct
    return cls


def _takes_alias(cls: Any) -> bool:
    parameters = inspect.signature(cls.__init__).parameters.values()
    keywords = inspect.Parameter.VAR_KEYWORD
    return any(each.name == "alias" or each.kind is keywords for each in parameters)


def _is_made_by_a_migration() -> bool:
    """Whether the caller runs in the body of a class ``Migration``.

    A storage in a migration has the options of that time, so it must not take the alias of the
    model's storage today. Django imports the migrations for ``test`` and ``runserver`` too.
    """
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "Migration" and "__qualname__" in frame.f_locals:
            return True
        frame = frame.f_back
    return False


class Registry:
    """The storages of this process by their aliases.

    ``STORAGES`` is read anew each time, for ``override_settings``. The registry itself holds the
    storages that were made inline.
    """

    def __init__(self) -> None:
        self._lock = ForkSafeLock()  # of the set, which cannot change while it is read
        self._living: weakref.WeakSet[AliasedStorage] = weakref.WeakSet()
        self._inline: weakref.WeakValueDictionary[str, AliasedStorage] = (
            weakref.WeakValueDictionary()
        )
        # A worker may need an inline storage that the view which made it no longer refers to. The
        # keys are alias and variant.
        self._kept: dict[str, dict[str, AliasedStorage]] = {}

    # Finding

    def storage_for(self, alias: str, variant: str = "") -> AliasedStorage:
        """The storage of this alias; if there are several, the one of this variant.

        ``UnknownAlias`` is raised if no storage of this process has the alias.
        """
        found = self._find(alias)
        if not variant or found.variant == variant:
            return found
        for other in self.living_storages():
            if other._has_alias(alias) and other.variant == variant:
                return other
        return found

    def _find(self, alias: str) -> AliasedStorage:
        for configured in configured_storages():
            if configured._given_alias == alias or configured._has_alias(alias):
                _ = configured.alias  # raises if another storage has the same alias
                return configured
        if inline := self._inline.get(alias):
            return inline
        for unused in self.living_storages():
            if unused._alias is None and unused._has_alias(alias):
                return unused
        if alias in storages.backends:
            _require_made(alias)
        raise UnknownAlias(
            f"No storage with the alias {alias!r} is known here. Add it to STORAGES, or make sure "
            f"that every worker imports the module that creates it."
        )

    def known_storages(self, *, strict: bool = False) -> list[AliasedStorage]:
        """The storages that this process knows, one per alias.

        A storage with a wrong configuration is left out, so that the others can be used; with
        ``strict`` its error is raised.
        """
        found = {}
        for storage in [*self.living_storages(), *configured_storages(strict=strict)]:
            try:
                found[storage.alias] = storage
            except ImproperlyConfigured as error:
                if strict:
                    raise
                logger.error("%s", error)
        return list(found.values())

    def storages_in_use(self) -> dict[str, AliasedStorage]:
        """Return the storages of this process by their aliases, and change nothing."""
        found = {}
        for storage in [*self.living_storages(), *configured_storages()]:
            with suppress(Exception):  # a system check reports it
                found[storage._unregistered_alias] = storage
        return found

    def living_storages(self) -> list[AliasedStorage]:
        """All storages in use, whether or not they have derived their alias."""
        with self._lock:
            return list(self._living)

    # Registering

    def add(self, storage: AliasedStorage) -> None:
        with self._lock:
            self._living.add(storage)

    def register(self, alias: str, storage: AliasedStorage) -> None:
        """Let the alias stand for this storage.

        ``ImproperlyConfigured`` is raised if it stands for a storage of other places.
        """
        is_configured = key_of(storage) is not None
        for other in configured_storages():
            if other is not storage and other._named_alias == alias:
                _require_same(alias, storage, other)
                return
        if is_configured:
            return
        holder = self._holder(alias, storage)
        if holder and holder is not storage:
            _require_same(alias, storage, holder)
        self._inline[alias] = storage
        self._keep(alias, storage)

    def _holder(self, alias: str, storage: AliasedStorage) -> AliasedStorage | None:
        """The inline storage that has the alias, unless it is different and only kept here."""
        holder = self._inline.get(alias)
        if holder is None or _is_same(storage, holder):
            return holder
        del holder  # or this function would keep it alive
        self._kept.pop(alias, None)
        if used := self._inline.get(alias):
            self._keep(alias, used)
        return used

    def _keep(self, alias: str, storage: AliasedStorage) -> None:
        variant = ""
        with suppress(ImproperlyConfigured):  # its task is wrong; checks and saves report it
            variant = storage.variant
        self._kept.setdefault(alias, {})[variant] = storage

    def reset(self, keep: Collection[AliasedStorage] | None = None) -> None:
        """Forget all aliases, for tests: storages in use derive theirs anew.

        With ``keep``, all other storages are forgotten too.
        """
        if keep is not None:
            with self._lock:
                self._living = weakref.WeakSet(keep)
        self._kept.clear()
        self._inline.clear()
        for storage in self.living_storages():
            storage._alias = storage._kept_alias = None


registry = Registry()
storage_for = registry.storage_for
known_storages = registry.known_storages
storages_in_use = registry.storages_in_use
living_storages = registry.living_storages


def _is_same(one: AliasedStorage, other: AliasedStorage) -> bool:
    return one.fingerprint() == other.fingerprint() and one.can_be_told_from(other)


def _require_same(alias: str, one: AliasedStorage, other: AliasedStorage) -> None:
    if one.fingerprint() != other.fingerprint():
        raise ImproperlyConfigured(
            f"Two queued storages with different configurations share the alias {alias!r}, so "
            f"the ledger would mix up their files. Give each its own alias: set alias='…', or "
            f"add each to STORAGES under its own key."
        )
    if not one._given_alias and not one.can_be_told_from(other):
        raise ImproperlyConfigured(
            "Two queued storages cannot be told apart, because it is unknown how one of their "
            "sides was made, so the ledger might mix up their files. Set alias='…' on each, or "
            "decorate the class of that side with django.utils.deconstruct.deconstructible."
        )


# The storages of STORAGES


def configured_storages(*, strict: bool = False) -> Iterator[AliasedStorage]:
    """The queued storages of ``STORAGES``.

    A storage that cannot be made is left out, so that the others can be used; with ``strict`` its
    error is raised.
    """
    for _key, storage in _configured(strict=strict):
        yield storage


def key_of(storage: AliasedStorage) -> str | None:
    """The key in ``STORAGES`` of this storage, or else of one that was made alike.

    Packages with their own ``StorageHandler`` make a second storage from the same entry.
    """
    own = (key for key, made in _configured() if made is storage)
    alike = (key for key, made in _configured() if _are_made_alike(storage, made))
    return next(own, None) or next(alike, None)


def _are_made_alike(one: AliasedStorage, other: AliasedStorage) -> bool:
    return type(one) is type(other) and one._construction() == other._construction()


def _configured(*, strict: bool = False) -> Iterator[tuple[str, AliasedStorage]]:
    for key in _configured_keys():
        try:
            storage = storages[key]
        except Exception:
            if strict:
                raise
            continue
        if isinstance(storage, AliasedStorage):
            yield key, storage


def _configured_keys() -> Iterator[str]:
    backends: dict[str, Any] = storages.backends
    for key, parameters in backends.items():
        path = parameters.get("BACKEND")
        if str(path).startswith(("django.", "storages.")):
            continue  # not ours, and finding that out must not import a cloud library
        try:
            backend = import_string(path)
        except Exception:
            continue  # not ours, and using that storage will raise the error
        if isinstance(backend, type) and issubclass(backend, AliasedStorage):
            yield key


def _require_made(key: str) -> None:
    try:
        _ = storages[key]
    except Exception as error:
        raise UnknownAlias(
            f"STORAGES[{key!r}] cannot be made ({type(error).__name__}). Run 'manage.py check'."
        ) from error
