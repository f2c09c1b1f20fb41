"""Whether the app is installed, without which the ledger has no tables."""

from typing import Any

from django.apps import apps
from django.core.checks import CheckMessage, Error, register
from django.core.exceptions import ImproperlyConfigured

from ..runtime.documentation import see

NOT_INSTALLED = "A queued storage is used, but 'queued_storage' is not in INSTALLED_APPS."
ADVICE = (
    "Add 'queued_storage' to INSTALLED_APPS and run 'manage.py migrate', because a queued storage "
    f"keeps its ledger in the database. {see('quickstart#configure-the-storages')}"
)


def require_app() -> None:
    """Raise ``ImproperlyConfigured`` if the app is not installed."""
    if not apps.is_installed("queued_storage"):
        raise ImproperlyConfigured(f"{NOT_INSTALLED} {ADVICE}")


# Not in the wing of the checks: those of an app that is not installed are not imported, but the
# models are, by everything that uses a queued storage.
@register("queued_storage")
def app_is_installed(**kwargs: Any) -> list[CheckMessage]:
    if apps.is_installed("queued_storage"):
        return []
    return [Error(NOT_INSTALLED, hint=ADVICE, id="queued_storage.E002")]
