"""The demo: a Django site that saves images to the local disk and uploads them to a real S3 server.

Run it with `make demo`. With ONCE=1 in the environment, it runs without a browser; see once.py.
"""

import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from wsgiref.simple_server import WSGIServer

import django
from django.core.management import call_command
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application

PORT = 8000  # or another one, if it is in use


def main() -> int:
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: sys.exit("Terminated."))
    try:
        with site() as url:
            if os.environ.get("ONCE", "") not in ("", "0"):
                import once  # reads the settings of the site

                return once.run(url)
            return wait_for_ctrl_c(url)
    except KeyboardInterrupt:
        print("\nStopped.")
        return 0


@contextmanager
def site() -> Iterator[str]:
    """Run the site and yield its URL, without the S3 server. Everything stops with the block."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "gallery.settings"
    django.setup()
    from django.conf import settings
    from django.core.files.storage import default_storage

    try:
        call_command("migrate", run_syncdb=True, verbosity=0)
        server = web_server()
        threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
    finally:
        settings.S3.stop()  # so that running transfers end
        default_storage.queue.stop(5)
        shutil.rmtree(settings.DATA, ignore_errors=True)


def web_server() -> WSGIServer:
    def bind(port: int) -> WSGIServer:
        return ThreadedWSGIServer(("127.0.0.1", port), WSGIRequestHandler)

    try:
        server = bind(PORT)
    except OSError:
        server = bind(0)
    server.set_app(get_wsgi_application())
    return server


def save_samples() -> None:
    """Save a picture that the scanner lets through, and one that carries the EICAR text."""
    from django.core.files.base import ContentFile
    from django.db import transaction

    from gallery.models import Picture
    from gallery.scan import EICAR
    from once import picture

    for name, extra in [("harmless.bmp", b""), ("eicar.bmp", EICAR)]:
        with transaction.atomic():
            Picture.objects.create(image=ContentFile(picture(2048) + extra, name))


def wait_for_ctrl_c(url: str) -> int:
    from django.conf import settings

    settings.S3.start()
    print(f"The S3 server ({settings.S3.describe()}) is running at {settings.S3.endpoint}.")
    if settings.SCAN:
        save_samples()
    print(f"\nOpen {url}/ in a browser. Press Ctrl-C to stop the demo.", flush=True)
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
