from django.core.validators import FileExtensionValidator
from django.db import models
from django_cleanup import cleanup

from queued_storage.fields import QueuedFileField, QueuedImageField


def by_author(instance: models.Model, file_name: str) -> str:
    return f"authors/{instance.author}/{file_name}"  # type: ignore[attr-defined]


class Paper(models.Model):
    """With our fields."""

    author = models.CharField(max_length=50, default="nobody")
    file = QueuedFileField(upload_to="papers", blank=True)
    scan = QueuedImageField(upload_to=by_author, blank=True)

    def __str__(self) -> str:
        return self.author


class Letter(models.Model):
    """The same with Django's own."""

    author = models.CharField(max_length=50, default="nobody")
    file = models.FileField(upload_to="papers", blank=True)
    scan = models.ImageField(upload_to=by_author, blank=True)

    def __str__(self) -> str:
        return self.author


class Note(models.Model):
    """Short names of few kinds."""

    file = QueuedFileField(
        upload_to="notes", max_length=30, validators=[FileExtensionValidator(["txt"])]
    )
    code = models.CharField(max_length=10, unique=True, null=True, blank=True)

    def __str__(self) -> str:
        return str(self.file)


@cleanup.select
class Draft(models.Model):
    """Its files are django-cleanup's to delete."""

    title = models.CharField(max_length=50, default="nothing")
    file = QueuedFileField(upload_to="drafts", blank=True)

    def __str__(self) -> str:
        return self.title


@cleanup.select
class Memo(models.Model):
    """The same with Django's own field."""

    title = models.CharField(max_length=50, default="nothing")
    file = models.FileField(upload_to="drafts", blank=True)

    def __str__(self) -> str:
        return self.title
