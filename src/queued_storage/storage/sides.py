"""The storages behind a queued one, as its options describe them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import Storage, storages
from django.utils.module_loading import import_string

from ..reporting.descriptions import describe, describe_arguments, is_describable

# Dotted paths that django-storages no longer has, and what replaced them
RENAMED = {
    "storages.backends.s3boto.S3BotoStorage": "storages.backends.s3.S3Storage",
    "storages.backends.s3boto3.S3Boto3Storage": "storages.backends.s3.S3Storage",
}


@dataclass
class Side:
    """How one of the storages is made."""

    name: str  # "local", "remote", "previous" or "mirrors": the option
    given: Any  # an alias of STORAGES, a dotted path, a class, a dict, or a storage
    args: tuple[Any, ...]
    options: dict[str, Any]

    @classmethod
    def from_options(cls, name: str, options: Mapping[str, Any], owner: str) -> "Side":
        """Read the options of a queued storage about this side."""
        given = options.get(name)
        if given is None:
            raise ImproperlyConfigured(
                f"{owner} needs the option {name!r}: an alias of STORAGES, a dotted path, a dict "
                f"with BACKEND and OPTIONS, or a storage."
            )
        its_options = options.get(f"{name}_options") or {}
        if not isinstance(its_options, Mapping):  # which may hold a secret
            kind = type(its_options).__name__
            raise ImproperlyConfigured(f"{name}_options must be a dict, not a {kind}.")
        return cls(name, given, tuple(options.get(f"{name}_args") or ()), dict(its_options))

    @property
    def alias(self) -> str:
        """Its key in ``STORAGES``; "" if it is given in another way."""
        is_alias = isinstance(self.given, str) and self.given in storages.backends
        return self.given if is_alias else ""

    @property
    def storage(self) -> Storage:
        """The storage: that of ``STORAGES`` at this moment, or one made once for this side."""
        if isinstance(self.given, Storage):
            return self.given
        if isinstance(self.given, str) and self.given in storages.backends:
            self._refuse_options(self.given)
            return storages[self.given]
        made: Storage | None = vars(self).get("_made")
        if made is None:  # two threads may make one each, but both use the same
            made = vars(self).setdefault("_made", self._make())
        return made

    def specification(self) -> tuple[Any, dict[str, Any]]:
        """Return what the storage is made of: a path, class or storage, and options."""
        spec: Any = self.given
        options = dict(self.options)
        if isinstance(spec, str) and spec in storages.backends:
            spec = storages.backends[spec]
        if isinstance(spec, Mapping):
            options = {**dict(spec.get("OPTIONS") or {}), **options}
            spec = spec.get("BACKEND")
        if isinstance(spec, str):
            spec = RENAMED.get(spec, spec)
        return spec, options

    def blueprint(self) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """Return how another process can make the storage: path or class, and its arguments."""
        spec, options = self.specification()
        if not isinstance(spec, Storage):
            return spec, self.args, options
        try:
            _path, args, options = spec.deconstruct()  # type: ignore[attr-defined]
        except (AttributeError, ValueError) as error:  # not deconstructible, or not importable
            raise ImproperlyConfigured(
                f"{self.name}={spec!r} does not show how it was made, so another process cannot "
                f"make the same storage. Give its class or dotted path with {self.name}_options, "
                f"or decorate the class with django.utils.deconstruct.deconstructible."
            ) from error
        return type(spec), tuple(args), options

    def description(self) -> list[Any]:
        """Return what distinguishes this side from others, without secrets."""
        given = self.given
        if isinstance(given, str):
            given = RENAMED.get(given, given)
        maker, _options = self.specification()
        return [describe(given), *describe_arguments(maker, self.args, self.options)]

    def can_be_told_from(self, other: "Side") -> bool:
        """Return whether equal descriptions mean that both make the same storage."""
        mine, theirs = self.specification()[0], other.specification()[0]
        return mine is theirs or _shows_what_it_is(mine)

    def _refuse_options(self, alias: str) -> None:
        if self.options or self.args:
            raise ImproperlyConfigured(
                f"{self.name}_options cannot be used with an alias; set the options of {alias!r} "
                f"in STORAGES[{alias!r}]['OPTIONS']."
            )

    def _make(self) -> Storage:
        spec, options = self.specification()
        if isinstance(spec, str):
            spec = self._import(spec)
        if isinstance(spec, Storage):
            return spec
        if not callable(spec):
            raise ImproperlyConfigured(f"{self.name}={spec!r} is not a storage.")
        storage = spec(*self.args, **options)
        if not isinstance(storage, Storage):
            raise ImproperlyConfigured(
                f"{self.name}: {spec!r} returned {storage!r}, which is not a Storage."
            )
        return storage

    def _import(self, path: str) -> Any:
        if "." not in path:
            known = ", ".join(map(repr, storages.backends))
            raise ImproperlyConfigured(
                f"{self.name}={path!r} is not an alias of STORAGES (which has {known}) and not a "
                f"dotted path."
            )
        try:
            return import_string(path)
        except ImportError as error:
            raise ImproperlyConfigured(
                f"{self.name}={path!r} cannot be imported: {error}. Check the path and whether "
                f"the package is installed."
            ) from error


@dataclass(frozen=True)
class Sides:
    """The storages behind one."""

    local: Side
    remote: Side
    previous: tuple[Side, ...] = ()  # remotes that have files which were not moved yet
    mirrors: tuple[Side, ...] = ()  # remotes that get a copy of each file

    @classmethod
    def from_options(cls, options: Mapping[str, Any], owner: str) -> "Sides":
        return cls(
            Side.from_options("local", options, owner),
            Side.from_options("remote", options, owner),
            tuple(_listed_sides("previous", options)),
            tuple(_listed_sides("mirrors", options)),
        )

    def __iter__(self) -> Iterator[Side]:
        yield self.local
        yield self.remote
        yield from self.previous
        yield from self.mirrors

    def storages(self) -> tuple[Storage, Storage]:
        """Return both storages; raise ``ImproperlyConfigured`` if one cannot be made."""
        return self.local.storage, self.remote.storage

    def descriptions(self) -> dict[str, list[Any]]:
        return {side.name: side.description() for side in (self.local, self.remote)}

    def can_be_told_from(self, other: "Sides") -> bool:
        """Return whether equal descriptions mean that both make the same two storages."""
        return self.local.can_be_told_from(other.local) and self.remote.can_be_told_from(
            other.remote
        )


def _listed_sides(name: str, options: Mapping[str, Any]) -> Iterator[Side]:
    given = options.get(name) or ()
    if not isinstance(given, list | tuple):
        raise ImproperlyConfigured(
            f"{name} must be a list of remotes, such as [{given!r}], not {given!r}."
        )
    for each in given:
        yield Side(name, each, (), {})


def _shows_what_it_is(spec: Any) -> bool:
    if isinstance(spec, Storage):
        return is_describable(spec)
    return isinstance(spec, type) or not callable(spec)
