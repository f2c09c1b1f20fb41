"""A queued storage that logs its calls as the storage of sorl-thumbnail's tests does."""

from queued_storage.backends import QueuedStorage
from tests.thumbnail_tests import storage


class LoggedStorage(storage.TestStorageMixin, QueuedStorage):
    pass


# The names of thumbnails depend on that of the class, and the tests compare them.
LoggedStorage.__module__ = storage.TestStorage.__module__
LoggedStorage.__name__ = storage.TestStorage.__name__
