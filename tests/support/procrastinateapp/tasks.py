"""Tasks of a project, which Procrastinate imports."""

from procrastinate.contrib.django import app

from queued_storage.maintenance import sweep


@app.periodic(cron="* * * * * *")  # every second
@app.task
def sweep_files(timestamp: int) -> None:
    sweep()
