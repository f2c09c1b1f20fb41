"""The uploader for storages without a specialized one."""

from typing import Any

from django.core.files.base import ContentFile

from ..files import presence
from ..files.localfiles import has_paths
from ..files.newfiles import new_file
from ..files.streams import MeasuredFile
from ..ledger.names import WRITER_NAME
from ..ledger.states import Content
from ..remotes.guarding import guarded
from ..remotes.layers import attribute_of, itself
from .base import Uploader


class GenericUploader(Uploader):
    """Calls the remote's own ``save()``, and proves the size, or the content on request."""

    def is_free(self, name: str) -> bool:
        """Return whether no object seems to have the name.

        A queued storage chooses a free name itself. It is only asked what it knows without its own
        remote, which may be away.
        """
        if not attribute_of(self.remote, "sides"):
            return super().is_free(name)
        queued: Any = itself(self.remote)
        return queued.queued_file(name) is None and not presence.exists(queued.local, name)

    def upload(self, name: str, content: MeasuredFile) -> str:
        with guarded(self.remote, name):
            return self.remote.save(name, content)

    def verify_size(self, name: str, sent: Content) -> str:
        # A compressed file has another size, so it must be read back.
        if getattr(self.remote, "gzip", False):
            return self.verify_content(name, sent)
        with guarded(self.remote, name):
            return super().verify_size(name, sent)

    def write_marker(self, data: bytes) -> bool:
        """Store it whole in a directory: a process that dies leaves none that cannot be read."""
        if not has_paths(self.remote):
            return super().write_marker(data)
        with new_file(self.remote, WRITER_NAME, ContentFile(data)) as file:
            taken = file.take(WRITER_NAME)
        if taken and taken != WRITER_NAME:  # a storage that names files by their content
            self.remove(taken)
        return taken == WRITER_NAME
