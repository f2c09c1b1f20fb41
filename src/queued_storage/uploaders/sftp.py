"""The uploader for django-storages' ``SFTPStorage``."""

from .generic import GenericUploader


class SFTPUploader(GenericUploader):
    """Detects that a file was not deleted: ``SFTPStorage`` hides every error."""

    def remove(self, name: str) -> None:
        super().remove(name)
        if self.exists(name):
            raise PermissionError(f"The remote has not deleted {name!r}.")
