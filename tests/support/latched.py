"""A remote in another process that stops in the middle of a save, until it is let go."""

import os
import time
from pathlib import Path
from typing import Any

from django.core.files.storage import FileSystemStorage


class LatchedStorage(FileSystemStorage):
    """Writes half of a file, puts its process id into `latch`, and goes on once that is gone."""

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
