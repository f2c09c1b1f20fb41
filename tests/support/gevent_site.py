"""A site whose threads are greenlets: save files, and end when all are transferred."""

from gevent import monkey

monkey.patch_all()

import django  # noqa: E402

django.setup()

from typing import Any  # noqa: E402

from django.core.files.base import ContentFile  # noqa: E402
from django.core.files.storage import storages  # noqa: E402

FILES = 6

storage: Any = storages["default"]
for number in range(FILES):
    storage.save(f"{number}.txt", ContentFile(b"bytes"))
storage.wait(timeout=60)
