from django.core.files.storage import Storage, storages
from django.db import models

from queued_storage.fields import QueuedFileField, QueuedImageField


def chosen_storage() -> Storage:
    return storages["default"]


class Document(models.Model):
    """A model with Django's own field on the default storage."""

    file = models.FileField(upload_to="docs", max_length=200)

    def __str__(self) -> str:
        return str(self.file)


class Photo(models.Model):
    image = QueuedImageField(upload_to="photos")

    def __str__(self) -> str:
        return str(self.image)


class Paper(models.Model):
    """A model whose storage is a callable."""

    file = QueuedFileField(upload_to="papers", storage=chosen_storage)

    def __str__(self) -> str:
        return str(self.file)
