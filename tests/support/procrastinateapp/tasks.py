"""What Procrastinate finds in an app of the project."""

from procrastinate.contrib.django import app

from queued_storage.maintenance import sweep


@app.periodic(cron="* * * * * *")  # each second
@app.task
def sweep_files(timestamp: int) -> None:
    sweep()
