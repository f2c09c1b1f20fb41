"""How a check is registered, and which storages the checks look at."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

from django.conf import settings as django_settings
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured

from ..conf import settings
from ..ledger.aliases import known_storages
from ..remotes.classes import LIBRARY
from ..reporting.redaction import without_secrets
from ..storage.composition import ComposedStorage
from ..storage.sides import Side
from .libraries import nearest_option, unknown_options

WITHOUT_STORAGES = (
    "django-storages is not installed. For S3, run: pip install 'django-queued-storage[s3]'"
)

Check = Callable[..., Iterator[CheckMessage]]
Run = Callable[..., list[CheckMessage]]

# Those that Django calls, without and with --deploy: see ``apps``
ALWAYS: list[Run] = []
DEPLOY: list[Run] = []


def check(
    function: Check | None = None, *, deploy: bool = False, production: bool = False
) -> Callable[..., Any]:
    """Register a check, which is skipped if the settings are invalid: E001 reports that.

    With ``deploy``, only ``manage.py check --deploy`` runs it. With ``production``, it is of no use
    during development: ``manage.py check`` runs it if ``DEBUG`` is off, and ``--deploy`` always.
    """
    if function is None:
        return partial(check, deploy=deploy, production=production)

    def run(app_configs: Sequence[Any] | None = None, **kwargs: Any) -> list[CheckMessage]:
        return [] if settings_problem() else list(function())

    def run_in_production(**kwargs: Any) -> list[CheckMessage]:
        return [] if django_settings.DEBUG else run()

    def run_in_development(**kwargs: Any) -> list[CheckMessage]:
        return run() if django_settings.DEBUG else []

    run.__name__, run.__doc__ = function.__name__, function.__doc__
    if production:  # as Django does not tell a check whether it was called with --deploy
        ALWAYS.append(run_in_production)
        DEPLOY.append(run_in_development)
    else:
        (DEPLOY if deploy else ALWAYS).append(run)
    return run


def settings_problem() -> str:
    try:
        _ = settings.values
    except ImproperlyConfigured as error:
        return str(error)
    return ""


def storages() -> list[ComposedStorage]:
    try:
        found = known_storages()
    except Exception:  # E003 reports it
        found = []
    return [storage for storage in found if isinstance(storage, ComposedStorage)]


def side_problem(storage: ComposedStorage, name: str) -> str:
    """Return why a side cannot be made, or one of several of that option; "" if it can."""
    problems = (_problem_of(side) for side in storage.sides if side.name == name)
    return next(filter(None, problems), "")


def _problem_of(side: Side) -> str:
    path, options = side.specification()
    unknown: list[str] = []
    if isinstance(path, str) and path.startswith(LIBRARY):
        # Importing a cloud library takes long, and is not needed to find it.
        module = path.rpartition(".")[0]
        if not _is_importable(module):
            advice = "" if _is_importable("storages") else f" {WITHOUT_STORAGES}"
            return f"{side.name}={path!r} cannot be imported.{advice}"
        unknown = unknown_options(path, options)
        if not unknown:
            return ""
    try:
        _ = side.storage  # sends no request
    except Exception as error:
        nearest = (nearest_option(path, name) for name in unknown)
        advice = "".join(f" Did you mean {name!r}?" for name in nearest if name)
        return f"{said_by(error).removesuffix('.')}.{advice}"
    return ""


def said_by(error: Exception) -> str:
    """The message of an error, which may quote the options of a storage or of a queue."""
    return without_secrets(str(error), by_look=False)


def _is_importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:
        return False
