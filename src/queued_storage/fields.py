"""File fields whose files know about their transfer."""

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

    Where the field's storage is an ordinary one, these raise ``ImproperlyConfigured``.
    """

    def transfer(self) -> TransferResult:
        """Have the file transferred now; see ``QueuedStorage.transfer()``."""
        return self._queued_storage.transfer(str(self.name))

    @property
    def is_remote(self) -> bool:
        """Whether reads of the file go to the remote."""
        return self._queued_storage.using_remote(str(self.name))

    @property
    def queued_file(self) -> QueuedFile | None:
        """The ledger's row, or None."""
        return self._queued_storage.queued_file(str(self.name))

    @property
    def _queued_storage(self) -> QueuedStorage:
        self._require_file()  # type: ignore[attr-defined]  # FieldFile has it, the stubs have not
        if not isinstance(self.storage, QueuedStorage):
            raise ImproperlyConfigured(
                f"{self.field} is kept in a {self.storage.__class__.__name__}, which moves no "
                f"files. Give the field, or the default of STORAGES, a QueuedStorage."
            )
        return self.storage


class QueuedImageFieldFile(QueuedFieldFile, ImageFieldFile):
    """The same for pictures."""


class QueuedFileField(FileField):
    attr_class = QueuedFieldFile

    if TYPE_CHECKING:  # what the descriptor gives is an attr_class

        @overload  # type: ignore[override]  # as the stubs of Django's own fields do
        def __get__(self, instance: None, owner: Any) -> FileDescriptor: ...
        @overload
        def __get__(self, instance: Model, owner: Any) -> QueuedFieldFile: ...
        @overload
        def __get__(self, instance: Any, owner: Any) -> Self: ...
        def __get__(self, instance: Any, owner: Any) -> Any: ...


class QueuedImageField(ImageField):
    attr_class = QueuedImageFieldFile

    if TYPE_CHECKING:

        @overload  # type: ignore[override]  # as the stubs of Django's own fields do
        def __get__(self, instance: None, owner: Any) -> ImageFileDescriptor: ...
        @overload
        def __get__(self, instance: Model, owner: Any) -> QueuedImageFieldFile: ...
        @overload
        def __get__(self, instance: Any, owner: Any) -> Self: ...
        def __get__(self, instance: Any, owner: Any) -> Any: ...
