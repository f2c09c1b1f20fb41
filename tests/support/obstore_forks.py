"""``python -m tests.support.obstore_forks OPTIONS``: print which processes upload with obstore.

The process forks before it loads obstore, uses obstore, and forks again.
"""

import json
import os
import sys
from typing import Any

import django


def sends_by_obstore(options: dict[str, Any]) -> bool:
    from django.core.files.base import ContentFile
    from storages.backends.s3 import S3Storage

    from queued_storage.files.streams import MeasuredFile
    from queued_storage.uploaders.s3 import trust
    from queued_storage.uploaders.s3.bucket import Bucket
    from queued_storage.uploaders.s3.by_obstore import substitute_for
    from queued_storage.uploaders.s3.uploader import S3Uploader

    trust.PROBE_AFTER = 1
    remote = S3Storage(**options)
    uploader = S3Uploader(remote)
    for number in range(3):
        name = f"{os.getpid()}/{number}.txt"
        uploader.upload(name, MeasuredFile(ContentFile(b"bytes"), name))
        assert remote.exists(name)
    substitute = substitute_for(Bucket(remote))
    senders = list(substitute._kinds.values()) if substitute else []
    return any(sender and sender._store for sender in senders)


def in_child(options: dict[str, Any]) -> bool:
    pid = os.fork()
    if pid == 0:
        os._exit(sends_by_obstore(options))
    return bool(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def main(text: str) -> None:
    django.setup()
    options = json.loads(text)
    found = {"early child": in_child(options), "parent": sends_by_obstore(options)}
    json.dump({**found, "late child": in_child(options)}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
