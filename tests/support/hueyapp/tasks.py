"""Tasks of a project, which `manage.py run_huey` imports."""

from huey import crontab
from huey.contrib.djhuey import db_periodic_task

from queued_storage.maintenance import sweep


@db_periodic_task(crontab())
def sweep_files() -> None:
    sweep()
