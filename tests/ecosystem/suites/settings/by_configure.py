"""A plugin of pytest for packages whose tests call ``settings.configure()``."""

from django.conf import settings
from storages_of_suites import APPS, with_default

_configure = settings.configure


def configure(**options):
    options["STORAGES"] = with_default(options.get("STORAGES", {}))
    options["INSTALLED_APPS"] = [*options["INSTALLED_APPS"], *APPS]
    options["QUEUED_STORAGE"] = {"QUEUE": "queued_storage.queues.dummy.DummyQueue"}
    _configure(**options)


# The instance of LazySettings would take an attribute for a setting.
settings.__dict__["configure"] = configure
