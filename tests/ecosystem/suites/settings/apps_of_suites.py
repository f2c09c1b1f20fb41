"""What must be done before the tests while the apps are loaded."""

from importlib import import_module

from django.apps import AppConfig
from django.core.files import storage
from storages_of_suites import IS_QUEUED


class FileSystemStorageIsReplaced(AppConfig):
    """For Django. It is the first app, so that the models and the tests import another class."""

    name = "apps_of_suites"
    label = "file_system_storage_is_replaced"

    def import_models(self):
        super().import_models()
        import_module("django.contrib.staticfiles.storage")  # with Django's own class
        if IS_QUEUED:
            storage.FileSystemStorage = import_module("queued_of_suites").DjangosFiles

    def ready(self):
        # The live server runs with fewer apps, without which this module cannot be imported.
        import_module("django.contrib.auth.middleware")


class TemporaryStorageIsReplaced(AppConfig):
    """The tests of easy-thumbnails make storages of this class."""

    name = "apps_of_suites"
    label = "temporary_storage_is_replaced"

    def ready(self):
        utils = import_module("easy_thumbnails.tests.utils")
        utils.TemporaryStorage = import_module("queued_of_suites").TemporaryStorage
