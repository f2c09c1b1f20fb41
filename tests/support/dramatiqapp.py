"""The broker of worker processes: `dramatiq tests.support.dramatiqapp`."""

import django
import dramatiq
from django.conf import settings
from django.utils.module_loading import import_string

broker = import_string(settings.DRAMATIQ_BROKER["BROKER"])(**settings.DRAMATIQ_BROKER["OPTIONS"])
dramatiq.set_broker(broker)
django.setup()

from queued_storage.maintenance import sweep  # noqa: E402  # needs Django


@dramatiq.actor(queue_name=settings.QUEUED_STORAGE["QUEUE"]["OPTIONS"]["queue_name"])
def sweep_files() -> None:
    """Sweep from a scheduler."""
    sweep()
