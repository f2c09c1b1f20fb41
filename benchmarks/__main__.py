"""``make bench``: what a save costs, as ratios against the same work without the package.

Every figure is a ratio of medians of one run, ours and theirs by turns, since the machine's own
speed changes from minute to minute.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import django
from django.conf import settings


def configure(directory: str) -> None:
    settings.configure(
        INSTALLED_APPS=["queued_storage"],
        SECRET_KEY="benchmark",
        USE_TZ=True,
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": os.path.join(directory, "db.sqlite3"),
                "OPTIONS": {
                    "transaction_mode": "IMMEDIATE",
                    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
                },
            }
        },
        QUEUED_STORAGE={"QUEUE": "queued_storage.queues.dummy.DummyQueue"},
    )
    django.setup()


def medians(works: dict[str, Callable[[int], object]], rounds: int) -> dict[str, float]:
    """The median seconds of each piece of work, done by turns."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds):
        for name, work in works.items():
            started = time.perf_counter()
            work(number)
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="queued-storage-bench-") as directory:
        configure(directory)
        run(directory, rounds)


def run(directory: str, rounds: int) -> None:
    from django.core.files.base import ContentFile
    from django.core.files.storage import FileSystemStorage
    from django.core.management import call_command
    from django.db import transaction
    from django.utils import timezone

    from queued_storage import conf
    from queued_storage.backends import QueuedStorage
    from queued_storage.models import QueuedFile

    call_command("migrate", verbosity=0)
    values: Any = conf.settings.values
    plain = FileSystemStorage(os.path.join(directory, "plain"))
    queued = QueuedStorage(
        FileSystemStorage(os.path.join(directory, "local")),
        FileSystemStorage(os.path.join(directory, "remote")),
        alias="bench",
    )

    def save_plainly(name: str, data: bytes) -> None:
        with transaction.atomic():
            saved = plain.save(name, ContentFile(data))
            QueuedFile.objects.create(alias="plain", name=saved, saved_at=timezone.now())

    def save_queued(name: str, data: bytes) -> None:
        with transaction.atomic():
            queued.save(name, ContentFile(data))

    def save_ratio(label: str, size: int, rounds: int) -> float:
        data = os.urandom(size)
        found = medians(
            {
                "plain": lambda number: save_plainly(f"{label}/{number}", data),
                "queued": lambda number: save_queued(f"{label}/{number}", data),
            },
            rounds,
        )
        return found["queued"] / found["plain"]

    print("save() in a transaction, against FileSystemStorage.save and one INSERT of the ORM")
    for label, size, share in (
        ("10 KB", 10_000, 1),
        ("1 MB", 1_000_000, 3),
        ("50 MB", 50_000_000, 30),
    ):
        print(f"  {label:>6}  {save_ratio(label, size, max(rounds // share, 5)):.2f} x")

    def save_with(fsync: bool, name: str, data: bytes) -> None:
        values["FSYNC"] = fsync  # override_settings would take longer than the save
        save_queued(name, data)

    def fsync_ratio(label: str, size: int, rounds: int) -> float:
        data = os.urandom(size)
        found = medians(
            {
                "without": lambda number: save_with(False, f"without/{label}/{number}", data),
                "with": lambda number: save_with(True, f"with/{label}/{number}", data),
            },
            rounds,
        )
        values["FSYNC"] = False
        return found["with"] / found["without"]

    print("save() with FSYNC, against without")
    for label, size, share in (("10 KB", 10_000, 1), ("1 MB", 1_000_000, 3)):
        print(f"  {label:>6}  {fsync_ratio(label, size, max(rounds // share, 5)):.1f} x")

    names = [f"10 KB/{number}" for number in range(min(rounds, 100))]
    found = medians(
        {
            "plain": lambda number: plain.url(names[0]),
            "queued": lambda number: queued.url(names[0]),
            "page": lambda number: queued.urls(names),
        },
        rounds,
    )
    print("url() of a file that is local, against FileSystemStorage.url")
    print(f"  one by one  {found['queued'] / found['plain']:.1f} x")
    print(f"  urls() of {len(names)}, a name  {found['page'] / len(names) / found['plain']:.1f} x")


if __name__ == "__main__":
    main()
