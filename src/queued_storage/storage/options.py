"""Which values the options of a storage may have."""

from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from ..ledger.priorities import NORMAL, priority_of

URL_MODES = ("direct", "signed", "stable", "proxied")
CHOICES = {"unknown": ("ask", "absent"), "evict_after": ("all", "first"), "url_mode": URL_MODES}


def require_valid(options: Mapping[str, Any]) -> None:
    """Raise ``ImproperlyConfigured`` if a value is none that the option may have."""
    for name in ("uploader", "cache_prefix"):
        if not isinstance(options.get(name, ""), str):
            raise ImproperlyConfigured(f"{name} must be a string, not {options[name]!r}.")
    for name, choices in CHOICES.items():
        if (value := options.get(name, choices[0])) not in choices:
            known = ", ".join(map(repr, choices[:-1]))
            either = "one of " if len(choices) > 2 else ""
            raise ImproperlyConfigured(
                f"{name} must be {either}{known} or {choices[-1]!r}, not {value!r}."
            )
    try:
        priority_of(options.get("priority", NORMAL))
    except ValueError as error:
        raise ImproperlyConfigured(str(error)) from None
