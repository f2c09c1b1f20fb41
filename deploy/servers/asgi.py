"""The ASGI application of a site with the embedded threads of django-queued-storage."""

import asyncio
import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "yoursite.settings")
django_application = get_asgi_application()


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    else:
        await django_application(scope, receive, send)


async def lifespan(receive, send):
    from queued_storage.queues.threads import stop_all

    assert (await receive())["type"] == "lifespan.startup"
    await send({"type": "lifespan.startup.complete"})
    assert (await receive())["type"] == "lifespan.shutdown"
    await asyncio.to_thread(stop_all, timeout=10, lets_go=True)
    await send({"type": "lifespan.shutdown.complete"})
