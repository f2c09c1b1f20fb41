"""The cost of url()."""

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from uuid import uuid4

from .peers import why_missing
from .project import configure, databases, queued_storage
from .rows import Options, Row, by_turns

PAGE = 100
TEMPLATE = "{% for photo in photos %}<img src='{{ photo.image.url }}'>{% endfor %}"
SIGNED = {  # a URL is computed without a request to the server
    "bucket_name": "bench",
    "access_key": "key",
    "secret_key": "secret",
    "region_name": "us-east-1",
}


def rows(options: Options) -> Iterator[Row]:
    caches = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    if not why_missing("redis"):
        from tests.support.services import url

        caches["redis"] = {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": url("redis"),
            "KEY_PREFIX": f"bench-{uuid4().hex}",
        }
    configure(options.directory, CACHES=caches)
    with databases():
        looks = Looks(options)
        yield looks.local()
        yield from looks.transferred()
        yield from looks.page()


class Looks:
    def __init__(self, options: Options) -> None:
        from django.core.cache import caches
        from django.core.files.base import ContentFile
        from django.core.files.storage import FileSystemStorage
        from django.template import Engine
        from storages.backends.s3 import S3Storage

        from queued_storage.backends import QueuedStorage
        from queued_storage.ledger.states import State
        from queued_storage.models import QueuedFile

        self.options = options
        self.ledger = QueuedFile.objects
        self.caches = caches
        place = options.directory
        self.disk = FileSystemStorage(place / "local", base_url="/media/")
        self.signed = S3Storage(**SIGNED)
        self.domain = S3Storage(**SIGNED, custom_domain="cdn.example")
        self.storages = {
            "signed": QueuedStorage(self.disk, self.signed, alias="signed"),
            "domain": QueuedStorage(self.disk, self.domain, alias="domain"),
        }
        for storage in self.storages.values():
            for number in range(PAGE):
                storage.save(f"some/{number}.bin", ContentFile(b"x"))
        self.local_names = [
            self.storages["domain"].save(f"local/{number}.bin", ContentFile(b"x"))
            for number in range(PAGE)
        ]
        for alias in self.storages:
            self._promote(alias, str(State.TRANSFERRED))
        self.template = Engine().from_string(TEMPLATE)
        self.photo = _model("Photo", self.storages["signed"])
        self.remote_photo = _model("RemotePhoto", self.signed)

    def _promote(self, alias: str, state: str) -> None:
        from django.db.models import F

        rows = self.ledger.filter(alias=alias, name__startswith="some/")
        rows.update(state=state, remote_name=F("name"), due_at=None)

    def names_of(self, alias: str) -> list[str]:
        rows = self.ledger.filter(alias=alias, name__startswith="some/").order_by("pk")
        return list(rows.values_list("name", flat=True))

    def look_up(self, alias: str, name: str) -> Any:
        """Run the query that a project without this package would need."""
        return self.ledger.filter(alias=alias, name=name).values_list("state", "remote_name").get()

    def local(self) -> Row:
        storage = self.storages["domain"]
        names = self.local_names

        def plain(number: int) -> None:
            name = names[number % PAGE]
            self.disk.url(name)
            self.look_up("domain", name)

        def ask_nothing(number: int) -> None:
            self.disk.url(names[number % PAGE])

        def queued(number: int) -> None:
            storage.url(names[number % PAGE])

        rounds = self.options.rounds(1000)
        found = by_turns({"plain": plain, "queued": queued, "url alone": ask_nothing}, rounds)
        with queued_storage(CACHE=None):
            without = by_turns({"queued": queued}, rounds)
        return Row(
            key="looks.local",
            what="url() of a file that isn't transferred yet",
            goal=2,
            is_at_most=True,
            ratio=round(found["queued"] / found["plain"], 2),
            details={
                "against": "FileSystemStorage.url() and a look-up by the ORM, SQLite",
                **micro(found),
                "without a cache, µs": round(without["queued"] * 1e6, 1),
            },
        )

    def transferred(self) -> Iterator[Row]:
        """Compare files that are already in the cache with a lookup in the same cache."""
        for cache_name, label in (("default", "in-process cache"), ("redis", "Redis cache")):
            for alias, remote in (("signed", self.signed), ("domain", self.domain)):
                kind = "signed URL" if alias == "signed" else "custom domain"
                found = None
                if cache_name in self.caches.settings:
                    with queued_storage(CACHE=cache_name):
                        found = self._transferred_row(alias, remote, cache_name)
                yield Row(
                    key=f"looks.transferred.{alias}.{cache_name}",
                    what=f"url() of a transferred file, {kind}, {label}",
                    goal=1.3,
                    is_at_most=True,
                    ratio=found and round(found["queued"] / found["plain"], 2),
                    details={"against": "a get() of the cache and S3Storage.url()"}
                    | (micro(found) if found else {}),
                    reason="" if found else "Redis does not answer",
                )

    def _transferred_row(self, alias: str, remote: Any, cache: str) -> dict[str, float]:
        storage, names = self.storages[alias], self.names_of(alias)
        for name in names:
            storage.url(name)
            self.caches[cache].set(f"plain-{name}", name, 3600)

        def plain(number: int) -> None:
            name = names[number % PAGE]
            # Each thread has its own connection to the cache, so each request looks it up.
            remote.url(self.caches[cache].get(f"plain-{name}"))

        def queued(number: int) -> None:
            storage.url(names[number % PAGE])

        return by_turns({"plain": plain, "queued": queued}, self.options.rounds(500))

    def page(self) -> Iterator[Row]:
        for cache_name, label in (
            (None, "no cache"),
            ("default", "in-process cache"),
            ("redis", "Redis cache"),
        ):
            found: dict[str, Any] | None = None
            if cache_name is None or cache_name in self.caches.settings:
                with queued_storage(CACHE=cache_name):
                    found = self._page()
            reason = "" if found else "Redis does not answer"
            prefetched = found and found.pop("prefetched")
            template = found and found.pop("template")
            yield Row(
                key=f"looks.page.{cache_name or 'none'}",
                what=f"urls() of 100 transferred files, without the remote's own time, {label}",
                goal=0.5 if cache_name == "default" else 3,
                is_at_most=True,
                ratio=found and found.pop("more"),
                unit="ms",
                details=found or {},
                reason=reason,
            )
            yield Row(
                key=f"looks.prefetched.{cache_name or 'none'}",
                what="url() of 100 files one by one in a block of prefetched(), without the "
                f"remote's own time, {label}",
                goal=0.5 if cache_name == "default" else 3,
                is_at_most=True,
                ratio=prefetched,
                unit="ms",
                details=found or {},
                reason=reason,
            )
            yield Row(
                key=f"looks.template.{cache_name or 'none'}",
                what="template with the URLs of 100 files after prefetch_urls(), beyond the same "
                f"with S3Storage, {label}",
                goal=0.5 if cache_name == "default" else 3,
                is_at_most=True,
                ratio=template,
                unit="ms",
                details=found or {},
                reason=reason,
            )

    def _page(self) -> dict[str, Any]:
        from django.db import connection
        from django.template import Context
        from django.test.utils import CaptureQueriesContext

        from queued_storage.prefetch import prefetch_urls

        storage, names = self.storages["signed"], self.names_of("signed")
        for name in names:
            storage.url(name)  # fill the cache
        storage.urls(names)

        def one_by_one() -> None:
            with storage.prefetched(names):
                for name in names:
                    storage.url(name)

        def photos(model: Any) -> list[Any]:
            return [model(image=name) for name in names]

        def render(found: list[Any]) -> str:
            return str(self.template.render(Context({"photos": found})))

        def render_prefetched(found: list[Any]) -> str:
            with prefetch_urls(found, "image"):
                return render(found)

        with CaptureQueriesContext(connection) as of_template:
            assert render_prefetched(photos(self.photo)).count("Signature=") == PAGE
        with CaptureQueriesContext(connection) as captured:
            storage.urls(names)
        with CaptureQueriesContext(connection) as of_block:
            one_by_one()
        works: dict[str, Callable[[int], object]] = {
            "remote": lambda number: [self.signed.url(name) for name in names],
            "urls()": lambda number: storage.urls(names),
            "url() of each": lambda number: [storage.url(name) for name in names],
        }
        found = by_turns(works, self.options.rounds(30))
        assert len(captured) <= 1, "a page takes one query at most"
        assert len(of_block) <= 1, "so does a block"
        assert len(of_template) <= 1, "and a template"
        rounds = range(self.options.rounds(30))
        more = [self._beyond_the_remote(lambda: storage.urls(names)) for _ in rounds]
        block = [self._beyond_the_remote(one_by_one) for _ in rounds]
        rendered, plain = [], []
        for _round in rounds:
            each = photos(self.photo), photos(self.remote_photo)
            rendered.append(self._beyond_the_remote(partial(render_prefetched, each[0])))
            plain.append(self._beyond_the_remote(partial(render, each[1])))
        rendering = statistics.median(rendered), statistics.median(plain)
        return {
            "more": round(statistics.median(more) * 1000, 2),
            "prefetched": round(statistics.median(block) * 1000, 2),
            "template": round((rendering[0] - rendering[1]) * 1000, 2),
            "queries": len(captured),
            "template with prefetch_urls(), ms": round(rendering[0] * 1000, 2),
            "template with S3Storage, ms": round(rendering[1] * 1000, 2),
            **{f"{name}, ms": round(value * 1000, 2) for name, value in found.items()},
        }

    def _beyond_the_remote(self, page: Callable[[], object]) -> float:
        """Return the seconds of one page without the time of the remote.

        The time of the remote is much longer, and it varies from page to page by as much as the
        rest takes.
        """
        url = self.signed.url
        inside = 0.0

        def timed(name: str) -> str:
            nonlocal inside
            started = time.perf_counter()
            found: str = url(name)
            inside += time.perf_counter() - started
            return found

        self.signed.url = timed
        started = time.perf_counter()
        try:
            page()
        finally:
            del self.signed.url
        return time.perf_counter() - started - inside


def _model(name: str, storage: Any) -> Any:
    """Return a model without a table, for instances that were read from one."""
    from django.db import models

    meta = type("Meta", (), {"app_label": "queued_storage", "managed": False})
    image = models.FileField(storage=storage)
    return type(name, (models.Model,), {"__module__": __name__, "Meta": meta, "image": image})


def micro(found: dict[str, float]) -> dict[str, float]:
    return {f"{name}, µs": round(value * 1e6, 1) for name, value in found.items()}
