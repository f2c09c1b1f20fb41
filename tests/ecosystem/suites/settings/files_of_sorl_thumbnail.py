"""For sorl-thumbnail, whose tests log what their storage is called for, and change STORAGES."""

from importlib import import_module

from django.test.signals import setting_changed
from django.utils.functional import empty
from storages_of_suites import IS_QUEUED

_theirs = import_module("tests.settings.pil")
globals().update({name: getattr(_theirs, name) for name in dir(_theirs) if name.isupper()})

CLASS_OF_QUEUED = "queued_of_sorl_thumbnail.LoggedStorage"


def forget_storage(*, setting, **_others):
    """Let sorl-thumbnail look up its storage again: it would keep one that Django has replaced.

    It knows that one by its class only, and a queued storage cannot be made without options.
    """
    if setting == "STORAGES":
        import_module("sorl.thumbnail.default").storage._wrapped = empty
        import_module("sorl.thumbnail.images").get_or_create_storage.cache_clear()


if IS_QUEUED:
    setting_changed.connect(forget_storage)
