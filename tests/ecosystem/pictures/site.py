"""A site with its own storage, and a count of the requests that it sends to S3."""

import contextlib
import html
import io
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from botocore.client import BaseClient
from django.conf import settings
from django.core.cache import cache
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client, override_settings
from django.utils.functional import empty
from PIL import Image as Pillow
from sorl.thumbnail import default as sorl
from sorl.thumbnail.images import get_or_create_storage

from queued_storage.files.markers import MARKER
from queued_storage.testing import drain
from tests.support.fault_proxy import FaultProxy
from tests.support.services import S3Server

PLAIN = "plain S3Storage"
KEEPS = "queued_storage.tasks.Transfer"
EVICTS = "queued_storage.tasks.TransferAndDelete"


class Site:
    """A site whose settings apply inside ``with site_on(...)``."""

    def __init__(self, s3: BaseClient, proxy: FaultProxy, bucket: str, media: Path) -> None:
        self.s3, self.proxy, self.bucket, self.media = s3, proxy, bucket, media
        self.client = Client()
        self.counts: dict[str, int] = {}

    @contextlib.contextmanager
    def counted(self, step: str, commit: Callable[..., Any]) -> Iterator[None]:
        before = len(self.proxy.requests)
        with commit(execute=True):
            yield
        self.counts[step] = len(self.proxy.requests) - before

    def page(self, kind: str, width: int) -> list[str]:
        """Return the URLs of the images on a page."""
        response = self.client.get(f"/gallery/{kind}/{width}/")
        assert response.status_code == 200
        return [html.unescape(url) for url in re.findall(r'src="(.*?)"', response.text)]

    def local_names(self) -> set[str]:
        files = (path for path in self.media.rglob("*") if path.is_file() and path.name != MARKER)
        return {path.relative_to(self.media).as_posix() for path in files}

    def remote_names(self) -> set[str]:
        """Return the keys of the bucket, read from the server directly."""
        found = self.s3.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return {each["Key"] for each in found}

    def transfer(self) -> None:
        assert drain(timeout=60) == {}

    def width_of(self, url: str) -> int:
        """Return the width of the image that a browser would show."""
        if url.startswith(settings.MEDIA_URL):
            content = (self.media / url.removeprefix(settings.MEDIA_URL)).read_bytes()
        else:
            assert url.startswith(self.proxy.endpoint_url)
            with urlopen(url, timeout=30) as answer:
                content = answer.read()
        with Pillow.open(io.BytesIO(content)) as image:
            return image.width


@contextlib.contextmanager
def site_on(server: S3Server, task: str, **options: Any) -> Iterator[Site]:
    """Yield a site with a plain S3Storage, or with a QueuedStorage that runs this task."""
    with contextlib.ExitStack() as stack:
        media = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pictures-")))
        proxy = stack.enter_context(FaultProxy(server.port))
        s3 = stack.enter_context(contextlib.closing(server.client()))
        bucket = f"bucket-{uuid.uuid4().hex}"
        s3.create_bucket(Bucket=bucket)
        stack.callback(s3.delete_bucket, Bucket=bucket)
        changes = settings_for(server.options(bucket, proxy.endpoint_url), media, task)
        if task != PLAIN:
            changes["STORAGES"]["default"]["OPTIONS"] |= options
        stack.enter_context(override_settings(**changes))
        forget_storages()
        cache.clear()
        stack.callback(forget_storages)
        yield Site(s3, proxy, bucket, media)


def settings_for(options: dict[str, Any], media: Path, task: str) -> dict[str, Any]:
    client_config = options.pop("client_config")  # Wagtail's tasks serialize the options as JSON
    s3 = {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": options}
    queued = {
        "BACKEND": "queued_storage.backends.QueuedStorage",
        "OPTIONS": {"local": "disk", "remote": "s3", "unknown": "absent", "task": task},
    }
    return {
        "AWS_S3_CLIENT_CONFIG": client_config,
        "MEDIA_ROOT": media,
        "STORAGES": {
            "default": s3 if task == PLAIN else queued,
            "disk": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
            "s3": s3,
            "staticfiles": settings.STORAGES["staticfiles"],
        },
    }


def forget_storages() -> None:
    """Make sorl-thumbnail look up its storage again. Django's own storages follow the settings."""
    sorl.storage._wrapped = empty
    get_or_create_storage.cache_clear()


def picture(number: int, width: int = 100) -> SimpleUploadedFile:
    """Return an image that differs for each number."""
    file = io.BytesIO()
    Pillow.new("RGB", (width, width * 3 // 4), (number * 20 % 256, 90, 160)).save(file, "JPEG")
    return SimpleUploadedFile(f"picture-{number}.jpg", file.getvalue(), "image/jpeg")
