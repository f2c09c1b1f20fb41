"""The uploader for storages without a specialized one."""

from ..files.streams import MeasuredFile
from ..ledger.states import Content
from ..remotes.guarding import guarded
from .base import Uploader


class GenericUploader(Uploader):
    """Calls the remote's own ``save()``, and proves the size, or the content on request."""

    def upload(self, name: str, content: MeasuredFile) -> str:
        with guarded(self.remote, name):
            return self.remote.save(name, content)

    def verify_size(self, name: str, sent: Content) -> str:
        # A compressed file has another size, so it must be read back.
        if getattr(self.remote, "gzip", False):
            return self.verify_content(name, sent)
        with guarded(self.remote, name):
            return super().verify_size(name, sent)
