"""File fields whose files have methods for their transfer."""

from typing import TYPE_CHECKING, Any, Self, overload

from django.core.exceptions import ImproperlyConfigured
from django.db.models import FileField, ImageField, Model
from django.db.models.fields.files import (
    FieldFile,
    FileDescriptor,
    ImageFieldFile,
    ImageFileDescriptor,
)

from .ledger.models import QueuedFile
from .storage.results import TransferResult
from .storage.saving import QueuedStorage


class QueuedFieldFile(FieldFile):
    """A file of a queued storage.

    Its methods raise ``ImproperlyConfigured`` if the field has another kind of storage, and
    ``ValueError`` if it has no file.
    """

    def transfer(self) -> TransferResult:
        """Queue the file for transfer now; see ``QueuedStorage.transfer()``."""
        return self._queued_storage.transfer(str(self.name))

    @property
    def is_remote(self) -> bool:
        """Whether reads of the file go to the remote."""
        return self._queued_storage.using_remote(str(self.name))

    @property
    def is_published(self) -> bool:
        """Whether readers get the file."""
        return self._queued_storage.is_published(str(self.name))

    @property
    def rejection(self) -> str | None:
        """Why a step has rejected the file, or its new content; None if it has not."""
        return self._queued_storage.rejection(str(self.name))

    @property
    def queued_file(self) -> QueuedFile | None:
        """The ledger's row, or None."""
        return self._queued_storage.queued_file(str(self.name))

    @property
    def _queued_storage(self) -> QueuedStorage:
        if not self.name:
            raise ValueError(f"The {self.field.name!r} attribute has no file associated with it.")
        if not isinstance(self.storage, QueuedStorage):
            raise ImproperlyConfigured(
                f"{self.field} uses {self.storage.__class__.__name__}, which transfers no files. "
                f"Set its storage, or the default of STORAGES, to a QueuedStorage."
            )
        return self.storage


class QueuedImageFieldFile(QueuedFieldFile, ImageFieldFile):
    """A QueuedFieldFile for images."""


class QueuedFileField(FileField):
    """A FileField whose files are QueuedFieldFiles."""

    attr_class = QueuedFieldFile

    if TYPE_CHECKING:  # the descriptor returns an attr_class

        @overload  # type: ignore[override]  # as the stubs of Django's own fields do
        def __get__(self, instance: None, owner: Any) -> FileDescriptor: ...
        @overload
        def __get__(self, instance: Model, owner: Any) -> QueuedFieldFile: ...
        @overload
        def __get__(self, instance: Any, owner: Any) -> Self: ...
        def __get__(self, instance: Any, owner: Any) -> Any: ...


class QueuedImageField(ImageField):
    """An ImageField whose files are QueuedImageFieldFiles."""

    attr_class = QueuedImageFieldFile

    if TYPE_CHECKING:

        @overload  # type: ignore[override]  # as the stubs of Django's own fields do
        def __get__(self, instance: None, owner: Any) -> ImageFileDescriptor: ...
        @overload
        def __get__(self, instance: Model, owner: Any) -> QueuedImageFieldFile: ...
        @overload
        def __get__(self, instance: Any, owner: Any) -> Self: ...
        def __get__(self, instance: Any, owner: Any) -> Any: ...
