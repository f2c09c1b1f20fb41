"""Fixtures of the journeys."""

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import storages
from pytest_django import Settings

from tests.support.command import silently
from tests.support.failpoints import FailPoint
from tests.support.forks import Forks, ended, forks
from tests.support.live import make_bucket, remove_bucket, use_servers
from tests.support.mirroring import Mirrored
from tests.support.moving import Switch
from tests.support.services import S3Server


@pytest.fixture
def switch(settings: Settings) -> Switch:
    """Return a function that configures the remotes of the default storage and returns it."""
    for place in ("old", "new"):
        shutil.rmtree(Path(settings.DIRECTORY) / place, ignore_errors=True)
    scripted = "tests.support.scripted.ScriptedStorage"
    remotes = {each: {"BACKEND": scripted, "OPTIONS": {"place": each}} for each in ("old", "new")}

    def configure(remote: str, *previous: str) -> Any:
        options = {"local": "disk", "remote": remote, "previous": list(previous)}
        default = {"BACKEND": "queued_storage.backends.QueuedStorage", "OPTIONS": options}
        settings.STORAGES = settings.STORAGES | remotes | {"default": default}
        return storages["default"]

    return configure


@pytest.fixture
def mirrored(settings: Settings) -> Mirrored:
    """Return a function that configures the mirrors of the default storage and returns it."""
    places = ("first", "second", "third")
    for place in places:
        shutil.rmtree(Path(settings.DIRECTORY) / place, ignore_errors=True)
    scripted = "tests.support.scripted.ScriptedStorage"
    remotes = {each: {"BACKEND": scripted, "OPTIONS": {"place": each}} for each in places}

    def configure(remote: str, *mirrors: str, **more: Any) -> Any:
        options = {"local": "disk", "remote": remote, "mirrors": list(mirrors), **more}
        default = {"BACKEND": "queued_storage.backends.QueuedStorage", "OPTIONS": options}
        settings.STORAGES = settings.STORAGES | remotes | {"default": default}
        return storages["default"]

    return configure


@pytest.fixture
def fork(child_environment: dict[str, str], settings: Settings) -> Iterator[Callable[..., Any]]:
    """Run a function of a module in another process."""
    with forks(child_environment, settings) as found:
        yield found.start


@pytest.fixture
def kill(
    child_environment: dict[str, str], settings: Settings, tmp_path: Path
) -> Iterator[Callable[..., None]]:
    """Run a verb until the fail point of this name kills it."""
    with forks(child_environment, settings) as found:

        def run(point: str, *arguments: str) -> None:
            child = found.start(silently, *arguments, point=FailPoint(point, tmp_path / "reached"))
            assert ended(child) == -signal.SIGKILL

        yield run


@pytest.fixture
def two_servers(s3_server: S3Server) -> Iterator[list[S3Server]]:
    """Two S3 servers, each with an empty bucket. The second one is this test's own."""
    with S3Server() as second:
        make_bucket(s3_server)
        make_bucket(second)
        yield [s3_server, second]
    remove_bucket(s3_server)


@pytest.fixture
def live(
    servers: dict[str, S3Server],
    request: pytest.FixtureRequest,
    child_environment: dict[str, str],
    settings: Settings,
) -> Iterator[Forks]:
    """Processes of a site with the ``servers`` of a module by name, and its ``RETRIES``."""
    use_servers(settings, servers, request.module.RETRIES)
    with forks(child_environment, settings) as found:
        yield found


@pytest.fixture
def aws(settings: Settings, s3_options: dict[str, Any]) -> str:
    """Set django-storages' settings for a bucket and return the bucket's name."""
    settings.AWS_STORAGE_BUCKET_NAME = s3_options["bucket_name"]
    settings.AWS_S3_ACCESS_KEY_ID = s3_options["access_key"]
    settings.AWS_S3_SECRET_ACCESS_KEY = s3_options["secret_key"]
    settings.AWS_S3_ENDPOINT_URL = s3_options["endpoint_url"]
    settings.AWS_S3_REGION_NAME = s3_options["region_name"]
    settings.AWS_S3_CLIENT_CONFIG = s3_options["client_config"]
    return str(s3_options["bucket_name"])
