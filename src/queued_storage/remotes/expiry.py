"""How long the signed URLs of a remote are valid."""

import inspect
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from django.conf import settings as django_settings
from django.core.files.storage import Storage

from .classes import dotted_path, known_of

S3 = "storages.backends.s3.S3Storage"
GCLOUD = "storages.backends.gcloud.GoogleCloudStorage"
AZURE = "storages.backends.azure_storage.AzureStorage"

# Returns an option of a storage, by its name
Option = Callable[[str], Any]


def lifetime_of(remote: Storage) -> float | None:
    """Return for how many seconds its signed URLs are valid, or None if it is not known to sign
    URLs."""
    for rule in known_of(type(remote), _RULES):
        return rule(lambda option: getattr(remote, option, None))
    return None


def signs(spec: Any, options: Mapping[str, Any]) -> bool:
    """Return whether such a storage would sign its URLs, without importing its library."""
    if isinstance(spec, Storage):
        return lifetime_of(spec) is not None
    if not isinstance(spec, str | type):
        return False  # a function, which may return any storage
    path = spec if isinstance(spec, str) else dotted_path(spec)
    path = _OTHER_PATHS.get(path, path)
    rule = _RULES.get(path)
    return rule is not None and rule(lambda option: _configured(path, options, option)) is not None


def url_within(remote: Storage, name: str, seconds: float | None) -> str:
    """Return the remote's URL of a file. A signed URL is valid for ``seconds`` at most, if the
    remote's ``url()`` takes ``expire``."""
    lifetime = lifetime_of(remote)
    if seconds is None or lifetime is None or lifetime <= seconds or not _takes_expire(remote):
        return remote.url(name)
    url: Any = remote.url
    return str(url(name, expire=max(1, int(seconds))))


def _takes_expire(remote: Storage) -> bool:
    return "expire" in inspect.signature(remote.url).parameters


def _of_s3(option: Option) -> float | None:
    has_signer = option("cloudfront_key") or option("cloudfront_signer")
    is_unsigned = not option("querystring_auth") or (option("custom_domain") and not has_signer)
    return None if is_unsigned else float(option("querystring_expire"))


def _of_gcloud(option: Option) -> float | None:
    if not option("querystring_auth") or option("default_acl") == "publicRead":
        return None
    expiration = option("expiration")
    is_span = isinstance(expiration, timedelta)
    return expiration.total_seconds() if is_span else float(expiration)


def _of_azure(option: Option) -> float | None:
    return float(option("expiration_secs")) if option("expiration_secs") else None


_RULES: dict[str, Callable[[Option], float | None]] = {
    S3: _of_s3,
    GCLOUD: _of_gcloud,
    AZURE: _of_azure,
}
_OTHER_PATHS = {
    "storages.backends.s3boto3.S3Boto3Storage": S3,
    "storages.backends.s3boto3.S3Storage": S3,
}

# django-storages' settings and defaults
_SETTINGS: dict[str, dict[str, tuple[str, Any]]] = {
    S3: {
        "querystring_auth": ("AWS_QUERYSTRING_AUTH", True),
        "querystring_expire": ("AWS_QUERYSTRING_EXPIRE", 3600),
        "custom_domain": ("AWS_S3_CUSTOM_DOMAIN", None),
        "cloudfront_key": ("AWS_CLOUDFRONT_KEY", None),
    },
    GCLOUD: {
        "querystring_auth": ("GS_QUERYSTRING_AUTH", True),
        "default_acl": ("GS_DEFAULT_ACL", None),
        "expiration": ("GS_EXPIRATION", timedelta(days=1)),
    },
    AZURE: {"expiration_secs": ("AZURE_URL_EXPIRATION_SECS", None)},
}


def _configured(path: str, options: Mapping[str, Any], option: str) -> Any:
    if option in options:
        return options[option]
    setting, default = _SETTINGS[path].get(option, ("", None))
    return getattr(django_settings, setting, default) if setting else default
