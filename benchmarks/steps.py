"""The cost of running steps: three of them, beside the same steps without this package."""

import hashlib
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .project import configure, databases
from .rows import Options, Row

FILES = 10_000
SIZE = (2400, 1800)  # pixels of a picture


def rows(options: Options) -> Iterator[Row]:
    configure(options.directory, STORAGES=storages(options.directory))
    with databases():
        yield Steps(options).row()


def storages(directory: Path) -> dict[str, Any]:
    files = "django.core.files.storage.FileSystemStorage"
    return {
        "default": {"BACKEND": files, "OPTIONS": {"location": directory / "bare"}},
        "disk": {"BACKEND": files, "OPTIONS": {"location": directory / "disk"}},
        "far": {"BACKEND": files, "OPTIONS": {"location": directory / "far"}},
        "staticfiles": {"BACKEND": files, "OPTIONS": {"location": directory / "static"}},
    }


class Steps:
    def __init__(self, options: Options) -> None:
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
        Image.effect_noise(SIZE, 30).convert("RGB").save(target, "JPEG")
        self.data = target.getvalue()
        self.steps = [Hashing(), CleanImage(), Looking()]
        self.storage = QueuedStorage(
            "disk", "far", alias="steps", steps=self.steps, publish="after_steps"
        )
        self.files = 10 if options.quick else FILES
        self.at_once = min(self.files, 100)

    def row(self) -> Row:
        bare = queued = 0.0
        for start in range(0, self.files, self.at_once):  # in turns
            names = [f"{number}.jpg" for number in range(start, start + self.at_once)]
            bare += self.bare(names)
            queued += self.queued(names)
        return Row(
            key="steps.throughput",
            what="throughput of three steps, beside the bare steps",
            goal=0.9,
            is_at_most=False,
            ratio=round(bare / queued, 3),
            details={
                "against": "the same steps called one after the other on files of a "
                "FileSystemStorage, and their results written back; SQLite, one thread",
                "files": self.files,
                "bytes of a file": len(self.data),
                "bare, files/s": round(self.files / bare, 1),
                "queued, files/s": round(self.files / queued, 1),
            },
        )

    def bare(self, names: list[str]) -> float:
        from django.core.files.base import ContentFile
        from django.core.files.storage import default_storage

        from queued_storage.ledger.states import Content
        from queued_storage.models import QueuedFile
        from queued_storage.steps import REPLACE
        from queued_storage.transfers.stepfile import PreparedFile

        for name in names:
            default_storage.save(name, ContentFile(self.data))
        started = time.perf_counter()
        for name in names:
            lies_at, content = name, Content(len(self.data), "")
            for step in self.steps:
                row = QueuedFile(name=name, alias="bare")
                file = PreparedFile(row, content, default_storage, lies_at, 1, lambda *args: None)
                outcome = step.run(file)
                if isinstance(outcome, REPLACE):
                    lies_at = default_storage.save(f"new {name}", outcome.content)
                    outcome.content.close()
                    default_storage.delete(name)
        return time.perf_counter() - started

    def queued(self, names: list[str]) -> float:
        from django.core.files.base import ContentFile

        from queued_storage.transfers import preparing

        for name in names:
            self.storage.save(name, ContentFile(self.data))
        started = time.perf_counter()
        assert preparing.run_due("steps", lambda: False) == {}
        seconds = time.perf_counter() - started
        assert all(self.storage.is_published(name) for name in names)
        return seconds
