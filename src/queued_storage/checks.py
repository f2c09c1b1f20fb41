"""The system checks: one function per message."""

from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any, cast

from django.apps import apps
from django.conf import settings as django_settings
from django.core.cache import caches
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import FileSystemStorage, Storage
from django.db import router
from django.db.models import FileField
from django.urls import NoReverseMatch, reverse
from django.utils.module_loading import import_string

from .conf import settings
from .ledger.aliases import AliasedStorage, known_storages
from .ledger.database import ledger_database
from .queues.dummy import DummyQueue
from .queues.threads import ThreadQueue
from .queues.worker import WorkerQueue
from .remotes.expiry import signs
from .reporting.descriptions import describe
from .serving.links import VIEW
from .storage.composition import ComposedStorage
from .storage.routes import is_per_process

WITHOUT_STORAGES = (
    "django-storages is not installed. For S3, run: pip install 'django-queued-storage[s3]'"
)

Check = Callable[..., Iterator[CheckMessage]]


def check(function: Check) -> Callable[..., list[CheckMessage]]:
    """Register a check, which is skipped if the settings are invalid: E001 reports that."""

    def run(app_configs: Sequence[Any] | None = None, **kwargs: Any) -> list[CheckMessage]:
        return [] if _settings_problem() else list(function())

    run.__name__, run.__doc__ = function.__name__, function.__doc__
    register(run, "queued_storage")
    return run


def _settings_problem() -> str:
    try:
        _ = settings.values
    except ImproperlyConfigured as error:
        return str(error)
    return ""


def _storages() -> list[ComposedStorage]:
    try:
        found = known_storages()
    except Exception:  # E003 reports it
        found = []
    return [storage for storage in found if isinstance(storage, ComposedStorage)]


@register("queued_storage")
def settings_are_valid(**kwargs: Any) -> list[CheckMessage]:
    problem = _settings_problem()
    return (
        [Error(problem, hint="See the docs, under 'Settings'.", id="queued_storage.E001")]
        if problem
        else []
    )


@check
def app_is_installed() -> Iterator[CheckMessage]:
    if not apps.is_installed("queued_storage"):
        yield Error(
            "queued_storage is used, but it is not in INSTALLED_APPS.",
            hint="Add 'queued_storage' to INSTALLED_APPS and run 'manage.py migrate'. "
            "See the docs, under 'Quickstart'.",
            id="queued_storage.E002",
        )


@check
def storages_have_aliases() -> Iterator[CheckMessage]:
    try:
        known_storages(strict=True)
    except Exception as error:
        yield Error(str(error), hint="See the docs, under 'Storages'.", id="queued_storage.E003")


@check
def sides_exist() -> Iterator[CheckMessage]:
    for storage in _storages():
        for side in ("local", "remote"):
            if problem := _side_problem(storage, side):
                yield Error(
                    f"{storage.alias}: {problem}",
                    hint="See the docs, under 'Storages'.",
                    obj=storage,
                    id="queued_storage.E004",
                )


def _side_problem(storage: ComposedStorage, side: str) -> str:
    path, _options = getattr(storage.sides, side).specification()
    if isinstance(path, str) and path.startswith("storages."):
        # Importing a cloud library takes long, and is not needed to find it.
        module = path.rpartition(".")[0]
        if _is_importable(module):
            return ""
        advice = "" if _is_importable("storages") else f" {WITHOUT_STORAGES}"
        return f"{side}={path!r} cannot be imported.{advice}"
    try:
        getattr(storage, side)
    except Exception as error:
        return str(error)
    return ""


def _is_importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:
        return False


@check
def sides_differ() -> Iterator[CheckMessage]:
    for storage in _storages():
        if _place(storage, "local") == _place(storage, "remote"):
            yield Error(
                f"{storage.alias}: local and remote point to the same location: evicting the "
                f"local copy would delete the only copy.",
                hint="Change the location or the bucket of one of them. "
                "See the docs, under 'Storages'.",
                obj=storage,
                id="queued_storage.E005",
            )


def _place(storage: ComposedStorage, side: str) -> Any:
    """Where a side stores its files, as far as its configuration shows it."""
    if _side_problem(storage, side):
        return object()  # E004 reports it; no other place is equal
    spec, options = getattr(storage.sides, side).specification()
    if isinstance(spec, str) and not spec.startswith("storages."):
        spec = import_string(spec)
    if spec is FileSystemStorage or isinstance(spec, FileSystemStorage):
        made = getattr(storage, side)
        return ("file system", made.location)
    return [describe(spec), describe(options)]


@check
def queues_can_be_built() -> Iterator[CheckMessage]:
    for storage in _storages():
        try:
            _ = storage.queue
        except ImproperlyConfigured as error:
            yield Error(
                f"{storage.alias}: {error}",
                hint="See the docs, under 'Queues'.",
                obj=storage,
                id="queued_storage.E006",
            )


@check
def tasks_are_tasks() -> Iterator[CheckMessage]:
    for storage in _storages():
        try:
            _ = storage.task
        except ImproperlyConfigured as error:
            yield Error(
                f"{storage.alias}: {error}",
                hint="See the docs, under 'Tasks'.",
                obj=storage,
                id="queued_storage.E007",
            )


@check
def cache_exists() -> Iterator[CheckMessage]:
    if settings.cache is not None and settings.cache not in django_settings.CACHES:
        yield Error(
            f"QUEUED_STORAGE['CACHE'] is {settings.cache!r}, which isn't an alias in CACHES.",
            hint="Use an alias in CACHES, or None to use no cache. See the docs, under 'Settings'.",
            id="queued_storage.E008",
        )


@check
def hosts_have_urls() -> Iterator[CheckMessage]:
    if settings.local_per_host and settings.other_host == "fetch" and not settings.host_urls:
        yield Error(
            "QUEUED_STORAGE['OTHER_HOST'] is 'fetch', but HOST_URLS is empty.",
            hint="Set the URL of each host, for example "
            "{'web-1': 'http://10.0.0.1:8000/queued/'}. See the docs, under 'Multiple hosts'.",
            id="queued_storage.E009",
        )


@check
def urls_are_included() -> Iterator[CheckMessage]:
    wanted = [storage for storage in _storages() if storage.url_mode != "direct"]
    if not wanted or not hasattr(django_settings, "ROOT_URLCONF"):  # a worker needs none
        return
    try:
        reverse(VIEW, kwargs={"alias": "alias", "name": "name"})
    except NoReverseMatch:
        for storage in wanted:
            yield Error(
                f"{storage.alias}: url_mode is {storage.url_mode!r}, but the URLconf doesn't "
                f"include 'queued_storage.urls'.",
                hint="Add path('queued/', include('queued_storage.urls')) to your URLconf. "
                "See the docs, under 'Stable URLs'.",
                obj=storage,
                id="queued_storage.E010",
            )


@check
def permission_is_callable() -> Iterator[CheckMessage]:
    if not isinstance(settings.permission, str):
        return
    try:
        is_callable = callable(import_string(settings.permission))
    except ImportError:
        is_callable = False
    if not is_callable:
        yield Error(
            f"QUEUED_STORAGE['PERMISSION'] must be the dotted path of a callable; "
            f"{settings.permission!r} cannot be imported.",
            hint="Use the path of a callable (request, queued_file) -> bool. "
            "See the docs, under 'Private files'.",
            id="queued_storage.E011",
        )


@check
def cache_is_shared() -> Iterator[CheckMessage]:
    if settings.cache not in django_settings.CACHES:
        return
    # The default cache of a new project is fine during development.
    matters = settings.given("CACHE") or (_storages() and not django_settings.DEBUG)
    if matters and is_per_process(caches[settings.cache]):
        yield Warning(
            f"The cache {settings.cache!r} is local to each process, so its entries are trusted "
            f"for a few seconds only.",
            hint="Set QUEUED_STORAGE['CACHE'] to a cache that all processes share, or to None. "
            "See the docs, under 'Settings'.",
            id="queued_storage.W001",
        )


@check
def local_does_not_overwrite() -> Iterator[CheckMessage]:
    for storage in _storages():
        if not _side_problem(storage, "local") and _allows_overwriting(storage.local):
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


@check
def ledger_is_beside_the_models() -> Iterator[CheckMessage]:
    for model in apps.get_models():
        for field in model._meta.get_fields():
            if not isinstance(field, FileField) or not isinstance(field.storage, AliasedStorage):
                continue
            database = router.db_for_write(model)
            if database != ledger_database():
                yield Warning(
                    f"{field} is written to the database {database!r}, but the ledger is in "
                    f"{ledger_database()!r}: a rolled-back save would still be transferred.",
                    hint="Use the same database: set QUEUED_STORAGE['DATABASE'], or change your "
                    "database router. See the docs, under 'Databases'.",
                    obj=field,
                    id="queued_storage.W003",
                )


@check
def hosts_have_queues() -> Iterator[CheckMessage]:
    if not settings.local_per_host:
        return
    for storage in _storages():
        try:
            queue = storage.queue
            is_one_for_all = storage.queue_for("one") is storage.queue_for("another")
        except ImproperlyConfigured:  # E006 reports it
            continue
        finds_its_own = isinstance(queue, ThreadQueue | DummyQueue | WorkerQueue)
        if is_one_for_all and not finds_its_own:
            yield Warning(
                f"{storage.alias}: each host has its own local storage, but "
                f"{type(queue).__name__} sends all messages to the same workers.",
                hint="Put '{host}' into the name of the queue, or run "
                "'manage.py queued_storage worker' on each host too. "
                "See the docs, under 'Multiple hosts'.",
                obj=storage,
                id="queued_storage.W004",
            )


@check
def local_is_as_private_as_the_remote() -> Iterator[CheckMessage]:
    for storage in _storages():
        is_wanted = storage.url_mode != "direct" or storage.is_direct_by_choice
        if is_wanted or django_settings.DEBUG or not _has_public_urls(storage):
            continue
        if not _side_problem(storage, "remote") and signs(*storage.sides.remote.specification()):
            yield Warning(
                f"{storage.alias}: the remote serves signed URLs, but until a file is "
                f"transferred it is served at an unsigned local URL.",
                hint="Set url_mode='signed', or 'direct' if all files are public. "
                "See the docs, under 'Private files'.",
                obj=storage,
                id="queued_storage.W005",
            )


def _has_public_urls(storage: ComposedStorage) -> bool:
    if _side_problem(storage, "local"):
        return False
    local = storage.local
    return isinstance(local, FileSystemStorage) and local.base_url not in {None, "", "/"}


@check
def private_files_are_outside_media_root() -> Iterator[CheckMessage]:
    for storage in _storages():
        if storage.url_mode == "signed" and _is_in_media_root(storage):
            yield Warning(
                f"{storage.alias}: url_mode is 'signed', but its local files are in MEDIA_ROOT, "
                f"which the web server may serve publicly.",
                hint="Set a location outside of MEDIA_ROOT for the local storage. "
                "See the docs, under 'Private files'.",
                obj=storage,
                id="queued_storage.W006",
            )


def _is_in_media_root(storage: ComposedStorage) -> bool:
    if not django_settings.MEDIA_ROOT or _side_problem(storage, "local"):
        return False
    local = storage.local
    root = Path(django_settings.MEDIA_ROOT).resolve()
    if not isinstance(local, FileSystemStorage):
        return False
    return Path(local.location).resolve().is_relative_to(root)
