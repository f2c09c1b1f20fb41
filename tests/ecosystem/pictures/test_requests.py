"""The number of requests to S3 for a page with images, as listed in docs/pictures.md."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import cache
from django.urls import reverse
from sorl.thumbnail import delete as sorl_delete
from wagtail.images.models import Image
from wagtail.models import Collection

from tests.support.services import S3Server

from .gallery.models import Easy, Kit, Measured, Plain, Sorl
from .site import EVICTS, KEEPS, PLAIN, Site, picture, site_on

pytestmark = [pytest.mark.django_db, pytest.mark.timeout(400)]

DOCS = Path(__file__).parents[3] / "docs"
PICTURES = 5

UPLOAD = "uploading five images"
FIRST = "first view of a page that shows them"
AGAIN = "second view of the page"
COLD = "view with an empty cache"
KEPT = "view after the transfer"
EVICTED = "view after the eviction"
OTHER_KEPT = "thumbnails of another size after the transfer"
OTHER_EVICTED = "thumbnails of another size after the eviction"
DELETE = "deleting everything"


@dataclass(frozen=True)
class Package:
    """How to upload and delete with a package. ``table`` is the heading of its table."""

    kind: str
    table: str
    delete: Callable[[Site], None]
    upload: Callable[[Site], None]
    makes_thumbnails: bool = True


def create(model: Any) -> Callable[[Site], None]:
    def upload(site: Site) -> None:
        for number in range(PICTURES):
            model.objects.create(image=picture(number))

    return upload


def upload_to_wagtail(site: Site) -> None:
    root = Collection.objects.get()
    for number in range(PICTURES):
        form = {"title": f"Picture {number}", "file": picture(number), "collection": root.pk}
        response = site.client.post(reverse("wagtailimages:add"), form)
        assert response.status_code == 302


def delete_with_field(model: Any) -> Callable[[Site], None]:
    def delete(site: Site) -> None:
        for each in model.objects.all():
            each.image.delete(save=False)
            each.delete()

    return delete


def delete_with_sorl(site: Site) -> None:
    for each in Sorl.objects.all():
        sorl_delete(each.image)
        each.delete()


def delete_with_imagekit(site: Site) -> None:
    """Delete the thumbnails explicitly, because django-imagekit does not."""
    for each in Kit.objects.all():
        for thumbnail in (each.small, each.large):
            thumbnail.storage.delete(thumbnail.name)
        each.image.delete(save=False)
        each.delete()


def delete_in_wagtail(site: Site) -> None:
    for image in Image.objects.all():
        response = site.client.post(reverse("wagtailimages:delete", args=[image.pk]))
        assert response.status_code == 302


PACKAGES = [
    Package(
        "plain", "`ImageField`", delete_with_field(Plain), create(Plain), makes_thumbnails=False
    ),
    Package(
        "measured",
        "`ImageField` with `width_field` and `height_field`",
        delete_with_field(Measured),
        create(Measured),
        makes_thumbnails=False,
    ),
    Package("easy", "easy-thumbnails", delete_with_field(Easy), create(Easy)),
    Package("sorl", "sorl-thumbnail", delete_with_sorl, create(Sorl)),
    Package("kit", "django-imagekit", delete_with_imagekit, create(Kit)),
    Package("wagtail", "Wagtail", delete_in_wagtail, upload_to_wagtail),
]


class Life:
    """The steps from upload to deletion of five images on one site."""

    def __init__(self, site: Site, package: Package, commit: Callable[..., Any]) -> None:
        self.site, self.package, self.commit = site, package, commit

    def upload(self) -> None:
        with self.site.counted(UPLOAD, self.commit):
            self.package.upload(self.site)

    def show(self, step: str, width: int = 50, *, at: str) -> None:
        with self.site.counted(step, self.commit):
            urls = self.site.page(self.package.kind, width)
        assert [url for url in urls if not url.startswith(at)] == []
        shown = width if self.package.makes_thumbnails else 100
        assert [self.site.width_of(url) for url in urls] == [shown] * PICTURES

    def show_cold(self, step: str, *, at: str) -> None:
        cache.clear()
        self.show(step, at=at)

    def delete(self) -> None:
        with self.site.counted(DELETE, self.commit):
            self.package.delete(self.site)

    def over(self) -> dict[str, int]:
        self.site.transfer()
        assert self.site.remote_names() == set()
        assert self.site.local_names() == set()
        return self.site.counts


def life_on_plain_s3(life: Life) -> dict[str, int]:
    s3 = life.site.proxy.endpoint_url
    life.upload()
    life.show(FIRST, at=s3)
    if life.package.makes_thumbnails:
        life.show(AGAIN, at=s3)
    for step in (COLD, KEPT, EVICTED):
        life.show_cold(step, at=s3)
    if life.package.makes_thumbnails:
        life.show(OTHER_KEPT, width=80, at=s3)
        life.site.counts[OTHER_EVICTED] = life.site.counts[OTHER_KEPT]
    life.delete()
    return life.over()


def life_with_local_copies(life: Life) -> dict[str, int]:
    site = life.site
    life.upload()
    life.show(FIRST, at="/media/")
    if life.package.makes_thumbnails:
        life.show(AGAIN, at="/media/")
    life.show_cold(COLD, at="/media/")
    before = site.local_names()
    site.transfer()
    assert site.local_names() == site.remote_names() == before
    life.show_cold(KEPT, at=site.proxy.endpoint_url)
    if life.package.makes_thumbnails:
        life.show(OTHER_KEPT, width=80, at="/media/")
        assert len(site.local_names()) == len(before) + PICTURES
        site.transfer()
    life.delete()
    return life.over()


def life_with_eviction(life: Life) -> dict[str, int]:
    site = life.site
    life.upload()
    life.show(FIRST, at="/media/")
    before = site.local_names()
    site.transfer()
    assert (site.local_names(), site.remote_names()) == (set(), before)
    life.show_cold(EVICTED, at=site.proxy.endpoint_url)
    assert site.local_names() == set()
    if life.package.makes_thumbnails:
        life.show(OTHER_EVICTED, width=80, at="/media/")
        assert len(site.local_names()) == PICTURES
        site.transfer()
        assert site.local_names() == set()
    life.delete()
    return life.over()


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.kind)
def test_docs_list_the_counted_requests(
    package: Package,
    s3_server: S3Server,
    collection: Collection,
    admin_user: Any,
    django_capture_on_commit_callbacks: Callable[..., Any],
) -> None:
    def lived(task: str, life: Callable[[Life], dict[str, int]]) -> dict[str, int]:
        with site_on(s3_server, task) as site:
            site.client.force_login(admin_user)
            return life(Life(site, package, django_capture_on_commit_callbacks))

    plain = lived(PLAIN, life_on_plain_s3)
    queued, keeping = lived(EVICTS, life_with_eviction), lived(KEEPS, life_with_local_copies)
    assert all(queued[step] == keeping[step] for step in queued.keys() & keeping.keys())
    queued |= keeping
    counted = {step: (queued[step], plain[step]) for step in plain}
    rows = "\n".join(f"| {step} | {ours} | {other} |" for step, (ours, other) in counted.items())
    assert documented(package.table) == counted, f"The table should be:\n{rows}"


def documented(table: str) -> dict[str, tuple[int, int]]:
    text = (DOCS / "pictures.md").read_text()
    head = f"| {table} | QueuedStorage | S3Storage |\n|---|---|---|\n"
    after = text.partition(head)[2]
    rows = re.findall(r"\| (.+?) \| (\d+) \| (\d+) \|\n", after.partition("\n\n")[0] + "\n")
    return {step: (int(ours), int(other)) for step, ours, other in rows}
