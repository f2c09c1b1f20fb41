from django.core.validators import FileExtensionValidator
from django.db import models
from django_cleanup import cleanup
from s3_file_field import S3FileField

from queued_storage.fields import QueuedFileField, QueuedImageField


def by_author(instance: models.Model, file_name: str) -> str:
    return f"authors/{instance.author}/{file_name}"  # type: ignore[attr-defined]


class Paper(models.Model):
    """A model with the fields of this package."""

    author = models.CharField(max_length=50, default="nobody")
    file = QueuedFileField(upload_to="papers", blank=True)
    scan = QueuedImageField(upload_to=by_author, blank=True)

    def __str__(self) -> str:
        return self.author


class Letter(models.Model):
    """The same model with Django's own fields."""

    author = models.CharField(max_length=50, default="nobody")
    file = models.FileField(upload_to="papers", blank=True)
    scan = models.ImageField(upload_to=by_author, blank=True)

    def __str__(self) -> str:
        return self.author


class Note(models.Model):
    """A model that limits the length and the extension of its file names."""

    file = QueuedFileField(
        upload_to="notes", max_length=30, validators=[FileExtensionValidator(["txt"])]
    )
    code = models.CharField(max_length=10, unique=True, null=True, blank=True)

    def __str__(self) -> str:
        return str(self.file)


class Upload(models.Model):
    """A model whose files browsers send to the remote themselves."""

    file = S3FileField()

    def __str__(self) -> str:
        return str(self.file)


@cleanup.select
class Draft(models.Model):
    """A model whose files django-cleanup deletes."""

    title = models.CharField(max_length=50, default="nothing")
    file = QueuedFileField(upload_to="drafts", blank=True)

    def __str__(self) -> str:
        return self.title


@cleanup.select
class Memo(models.Model):
    """The same model with Django's own field."""

    title = models.CharField(max_length=50, default="nothing")
    file = models.FileField(upload_to="drafts", blank=True)

    def __str__(self) -> str:
        return self.title
