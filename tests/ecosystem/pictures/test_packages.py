"""The statements of the docs about each package, apart from the request counts."""

import json
import os
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest
from botocore.exceptions import ClientError
from django.core.files.storage import default_storage
from django.core.management import call_command
from easy_thumbnails.models import Source
from wagtail.images.models import Image
from wagtail.models import Collection

from queued_storage.prefetch import prefetch_urls
from tests.support.services import S3Server

from .gallery.models import Easy, Kit, Sorl
from .site import EVICTS, KEEPS, PLAIN, picture, site_on
from .test_requests import DOCS

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(("kind", "model"), [("sorl", Sorl), ("kit", Kit)])
def test_asking_costs_one_request_per_new_thumbnail(
    s3_server: S3Server, kind: str, model: Any
) -> None:
    with site_on(s3_server, KEEPS, unknown="ask") as site:
        for number in range(3):
            model.objects.create(image=picture(number))
        urls = site.page(kind, 50)
        requests = [request.split()[0] for request in site.proxy.requests]
        assert requests == ["HEAD", "GET", "HEAD", "HEAD"]  # one of them is about the bucket
        assert [site.width_of(url) for url in urls] == [50] * 3
        site.page(kind, 50)
        assert len(site.proxy.requests) == 4


def test_easy_thumbnails_needs_unknown_names_to_be_absent(s3_server: S3Server) -> None:
    with site_on(s3_server, KEEPS, unknown="ask") as site:
        Easy.objects.create(image=picture(1))
        with pytest.raises(ClientError, match="404"):
            site.page("easy", 50)


def test_easy_thumbnails_replaces_a_thumbnail(
    s3_server: S3Server, django_capture_on_commit_callbacks: Callable[..., Any]
) -> None:
    with site_on(s3_server, KEEPS) as site:
        original = Easy.objects.create(image=picture(1)).image.name
        [url] = site.page("easy", 50)
        site.transfer()
        [thumbnail] = site.local_names() - {original}
        os.utime(site.media / thumbnail, (0, 0))  # older than its original

        with django_capture_on_commit_callbacks(execute=True):
            [again] = site.page("easy", 50)
        assert again == url
        assert site.local_names() == {original, thumbnail}
        assert site.width_of(again) == 50

        site.transfer()
        [remote] = site.page("easy", 50)
        assert site.width_of(remote) == 50
        assert site.local_names() == site.remote_names() == {original, thumbnail}


@pytest.mark.parametrize(("task", "is_told"), [(KEEPS, False), (PLAIN, True)])
def test_wagtails_task_receives_the_storage_options(
    s3_server: S3Server, task: str, is_told: bool
) -> None:
    with site_on(s3_server, task):
        told = json.dumps(Image._meta.get_field("file").storage.deconstruct())
        assert (S3Server.SECRET_KEY in told) is is_told


def test_prefetched_renditions_take_one_more_query(
    s3_server: S3Server,
    django_assert_num_queries: Callable[..., Any],
    settings: Any,
    collection: Collection,
) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"CACHE": None}
    with site_on(s3_server, KEEPS):
        for number in range(3):
            image = Image.objects.create(title="a", file=picture(number))
            image.get_rendition("width-50")
        images = Image.objects.prefetch_renditions("width-50")
        with django_assert_num_queries(2):
            renditions = [each for image in images for each in image.prefetched_renditions]
        expected = [rendition.url for rendition in renditions]
        assert len(expected) == 3
        with django_assert_num_queries(1), prefetch_urls(renditions):
            assert [image.get_rendition("width-50").url for image in images] == expected


def test_docs_list_the_tested_versions() -> None:
    text = " ".join((DOCS / "pictures.md").read_text().split())
    for package in ("Pillow", "easy-thumbnails", "sorl-thumbnail", "django-imagekit", "Wagtail"):
        assert f"{package} {version(package)}" in text


@pytest.mark.parametrize("task", [KEEPS, EVICTS])
def test_easy_thumbnails_cleanup_finds_every_original(s3_server: S3Server, task: str) -> None:
    with site_on(s3_server, task) as site:
        original = Easy.objects.create(image=picture(1)).image.name
        site.page("easy", 50)
        site.transfer()
        call_command("thumbnail_cleanup")
        assert default_storage.exists(original)
        assert len(site.remote_names()) == 2
        assert Source.objects.count() == 1
