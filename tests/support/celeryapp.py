"""The Celery app of worker processes: `celery -A tests.support.celeryapp worker`."""

from celery import Celery

app = Celery("tests", set_as_current=False)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
