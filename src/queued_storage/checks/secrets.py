"""Checks of what ``makemigrations`` would write into a file of the project."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from django.apps import apps
from django.core.checks import CheckMessage, Error
from django.core.files.storage import Storage
from django.db.models import FileField

from ..ledger.aliases import AliasedStorage
from ..reporting.descriptions import arguments_of, by_name
from ..reporting.reasons import is_secret
from ..runtime.documentation import see
from .registration import check


@check
def no_migration_has_a_secret() -> Iterator[CheckMessage]:
    for model in apps.get_models(include_auto_created=True):
        for field in model._meta.local_fields:
            if not isinstance(field, FileField):
                continue
            # Of a storage that is given by a function, a migration has the function's name.
            storage = field.deconstruct()[3].get("storage")
            if not isinstance(storage, AliasedStorage):
                continue
            if names := list(dict.fromkeys(_secrets_in(storage))):
                yield Error(
                    f"{field}: its storage is given with {', '.join(map(repr, names))}, which "
                    f"'manage.py makemigrations' would write into a migration.",
                    hint="Put the storage into STORAGES, and give the field a function that "
                    "returns it: storages['its key']. If a migration has the secret already, "
                    "replace the storage there too, and change the secret. "
                    f"{see('storages#the-local-and-the-remote-storage')}",
                    obj=field,
                    id="queued_storage.E020",
                )


def _secrets_in(spec: Any) -> Iterator[str]:
    """Yield the names of the arguments with a secret, also of those of storages inside."""
    if isinstance(spec, Storage):
        args, options = arguments_of(spec) or ((), {})
        named, rest = by_name(type(spec), args)
        yield from _secrets_in({**named, **options})
        yield from _secrets_in(rest)
    elif isinstance(spec, Mapping):
        for name, value in spec.items():
            if (value and is_secret(str(name))) or _has_password(value):
                yield str(name)
            else:
                yield from _secrets_in(value)
    elif isinstance(spec, list | tuple):
        for each in spec:
            yield from _secrets_in(each)


def _has_password(value: Any) -> bool:
    if not (isinstance(value, str) and "://" in value):
        return False
    try:
        return bool(urlsplit(value).password)
    except ValueError:  # not a URL
        return False
