"""gunicorn with the embedded threads of django-queued-storage."""

bind = "127.0.0.1:8000"
workers = 4
preload_app = True
graceful_timeout = 30  # longer than the ten seconds below


def worker_exit(server, worker):
    from queued_storage.queues.threads import stop_all

    stop_all(timeout=10, lets_go=True)
