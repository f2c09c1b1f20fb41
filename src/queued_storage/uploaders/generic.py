"""The uploader for every storage that has no better one."""

from ..files.streams import MeasuredFile
from ..ledger.states import Content
from .base import Uploader


class GenericUploader(Uploader):
    """Uses the remote's own ``save()``, and proves the size, or the content where asked."""

    def upload(self, name: str, content: MeasuredFile) -> str:
        return self.remote.save(name, content)

    def verify_size(self, name: str, sent: Content) -> str:
        # A storage that compresses stores another number of bytes; only reading tells.
        if getattr(self.remote, "gzip", False):
            return self.verify_content(name, sent)
        return super().verify_size(name, sent)
