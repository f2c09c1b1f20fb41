"""A remote in another process that pauses in the middle of a save."""

import os
import time
from pathlib import Path
from typing import Any

from django.core.files.storage import FileSystemStorage


class LatchedStorage(FileSystemStorage):
    """A storage that writes half of a file and its process id to the file `latch`.

    It writes the other half after `latch` is deleted.
    """

    def __init__(self, latch: str, **options: Any) -> None:
        super().__init__(**options)
        self.latch = Path(latch)

    def _save(self, name: str, content: Any) -> str:
        path = Path(self.path(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(content.read(content.size // 2))
            file.flush()
            self.latch.write_text(str(os.getpid()))
            while self.latch.exists():
                time.sleep(0.02)
            file.write(content.read())
        return name
