from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class QueuedStorageConfig(AppConfig):
    name = "queued_storage"
    verbose_name = _("Queued storage")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import checks  # noqa: F401  # registers them; they need the models
        from .storage.composition import load_queues

        load_queues()
