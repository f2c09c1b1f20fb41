"""The cost of running steps: three of them, beside the same steps without this package."""

import hashlib
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .project import configure, databases
from .rows import Options, Row

FILES = 100
AT_ONCE = 10  # files of a turn
SIZE = (2400, 1800)  # pixels of a picture


def rows(options: Options) -> Iterator[Row]:
    yield from measured(options, "steps.throughput", FILES, SIZE)


def measured(options: Options, key: str, files: int, size: tuple[int, int]) -> Iterator[Row]:
    """Measure the steps of so many files, which all wait in the ledger at first."""
    configure(options.directory, STORAGES=storages(options.directory))
    with databases():
        yield Steps(options, files, size).row(key)


def storages(directory: Path) -> dict[str, Any]:
    files = "django.core.files.storage.FileSystemStorage"
    return {
        "default": {"BACKEND": files, "OPTIONS": {"location": directory / "bare"}},
        "disk": {"BACKEND": files, "OPTIONS": {"location": directory / "disk"}},
        "far": {"BACKEND": files, "OPTIONS": {"location": directory / "far"}},
        "staticfiles": {"BACKEND": files, "OPTIONS": {"location": directory / "static"}},
    }


class Steps:
    def __init__(self, options: Options, files: int, size: tuple[int, int]) -> None:
        from django.core.files.storage import default_storage
        from PIL import Image

        from queued_storage.backends import QueuedStorage
        from queued_storage.steps import PASS, Outcome, Step, StepFile
        from queued_storage.steps.images import CleanImage

        class Hashing(Step):
            """Stands for a look-up of known files."""

            def run(self, file: StepFile) -> Outcome:
                digest = hashlib.sha256()
                for piece in file.chunks():
                    digest.update(piece)
                return PASS

        class Looking(Step):
            """Decodes the picture once, as a moderation would."""

            def run(self, file: StepFile) -> Outcome:
                with file.open() as opened:
                    its_file: Any = opened  # Pillow needs less than its annotation says
                    with Image.open(its_file) as picture:
                        picture.resize((64, 64))
                return PASS

        target = io.BytesIO()
        Image.effect_noise(size, 30).convert("RGB").save(target, "JPEG")
        self.data = target.getvalue()
        self.bare_files = default_storage
        self.steps = [Hashing(), CleanImage(), Looking()]
        self.storage = QueuedStorage(
            "disk", "far", alias="steps", steps=self.steps, publish="after_steps"
        )
        self.at_once = 5 if options.quick else AT_ONCE
        self.turns = 2 if options.quick else files // self.at_once

    def row(self, key: str) -> Row:
        from django.core.files.base import ContentFile

        from queued_storage.ledger.preparations import preparations

        files = self.turns * self.at_once
        for number in range(files):
            self.storage.save(f"{number}.jpg", ContentFile(self.data))
        found = self.compared()
        assert not preparations().exists()
        (bare, bare_cpu), (queued, queued_cpu) = found["bare"], found["queued"]
        return Row(
            key=key,
            what=f"throughput of three steps on {files:,} pictures, compared with the bare steps",
            goal=0.9,
            is_at_most=False,
            ratio=round(bare / queued, 3),
            details={
                "against": "the same steps called one after the other on files of a "
                "FileSystemStorage, and their results written back; SQLite, one thread",
                "bytes of a file": len(self.data),
                "ratio of processor times": round(bare_cpu / queued_cpu, 3),
                "bare, files/s": round(files / bare, 1),
                "queued, files/s": round(files / queued, 1),
            },
        )

    def compared(self) -> dict[str, tuple[float, float]]:
        """Run all turns; return the wall and processor times in seconds, summed up."""
        times = {"bare": (0.0, 0.0), "queued": (0.0, 0.0)}
        works = [("bare", self.bare), ("queued", self.queued)]
        for turn in range(self.turns):
            names = [f"{turn * self.at_once + number}.jpg" for number in range(self.at_once)]
            self.save_bare(names)
            for name, work in works:
                started, cpu = time.perf_counter(), time.process_time()
                work(names)
                wall, busy = times[name]
                wall += time.perf_counter() - started
                times[name] = wall, busy + time.process_time() - cpu
            works.reverse()
            assert all(map(self.storage.is_published, names))
            for name in names:
                self.storage.local.delete(name)
                self.bare_files.delete(name)
                self.bare_files.delete(f"new {name}")
        return times

    def save_bare(self, names: list[str]) -> None:
        from django.core.files.base import ContentFile

        for name in names:
            self.bare_files.save(name, ContentFile(self.data))

    def bare(self, names: list[str]) -> None:
        from queued_storage.ledger.states import Content
        from queued_storage.models import QueuedFile
        from queued_storage.steps import REPLACE
        from queued_storage.transfers.stepfile import PreparedFile

        local = self.bare_files
        for name in names:
            lies_at, content = name, Content(len(self.data), "")
            for step in self.steps:
                row = QueuedFile(name=name, alias="bare")
                file = PreparedFile(row, content, local, lies_at, 1, lambda *args: None)
                outcome = step.run(file)
                if isinstance(outcome, REPLACE):
                    lies_at = local.save(f"new {name}", outcome.content)
                    outcome.content.close()
                    local.delete(name)

    def queued(self, names: list[str]) -> None:
        from queued_storage.transfers import preparing

        passed: list[int] = []
        errors = preparing.run_due("steps", lambda: len(passed) == len(names), passed.extend)
        assert errors == {}
