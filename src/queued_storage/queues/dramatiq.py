"""Dramatiq."""

import copy
import os
import threading
from typing import Any

from django.utils.module_loading import import_string

from ..exceptions import InvalidQueue, MissingLibrary
from .base import TIMEOUT, BaseQueue, impatient, run_message

try:
    import dramatiq
    from dramatiq.broker import Broker
except ImportError as error:
    raise MissingLibrary("Dramatiq", "dramatiq") from error

ACTOR = "queued_storage.run"


class DramatiqQueue(BaseQueue):
    """Sends messages for the actor ``queued_storage.run`` to the workers of a Dramatiq broker.

    ``broker`` is the broker or its dotted path, by default the one of ``dramatiq.set_broker()``.
    The other options are those of a Dramatiq message, with times in milliseconds. Without a
    ``time_limit`` there is none, since Dramatiq's own of ten minutes may be short for a big file.
    """

    def __init__(
        self,
        broker: Broker | str | None = None,
        *,
        queue_name: str = "default",
        broker_priority: int | None = None,
        time_limit: int | None = None,
        max_age: int | None = None,
    ) -> None:
        self.broker = _broker(broker)
        self._queue_name = queue_name
        options = {
            "broker_priority": broker_priority,
            "time_limit": time_limit,
            "max_age": max_age,
        }
        self._options = {name: value for name, value in options.items() if value is not None}
        try:
            _declare(self.broker, queue_name)
        except ValueError as error:
            raise InvalidQueue(f"queue_name={queue_name!r} cannot be: {error}") from error
        self._publisher = _publisher(self.broker)
        self._pid = os.getpid()

    def enqueue(self, pks: list[int]) -> None:
        if self._pid != os.getpid():  # connections do not survive a fork
            self._publisher, self._pid = _publisher(self.broker), os.getpid()
        _connect(self._publisher)
        self._publisher.enqueue(
            dramatiq.Message(
                queue_name=self._queue_name,
                actor_name=ACTOR,
                args=(pks,),
                kwargs={},
                options=dict(self._options),
            )
        )


def _broker(spec: Broker | str | None) -> Broker:
    if isinstance(spec, str):
        try:
            spec = import_string(spec)
        except ImportError as error:
            raise InvalidQueue(f"The broker {spec!r} cannot be imported: {error}") from error
    if spec is None and dramatiq.broker.global_broker is None:
        # Dramatiq would make up one for this host, and the one that is set later would not know.
        raise InvalidQueue(
            "No Dramatiq broker was set when Django was started. Give the dotted path of yours as "
            "the option 'broker', or add django_dramatiq to INSTALLED_APPS."
        )
    broker = dramatiq.get_broker() if spec is None else spec
    if not isinstance(broker, Broker):
        raise InvalidQueue(f"{broker!r} is no Dramatiq broker.")
    return broker


def _declare(broker: Broker, queue_name: str) -> None:
    """Have the broker's workers know the actor and listen to the queue."""
    if ACTOR not in broker.actors:
        options: dict[str, Any] = {"max_retries": 0, "time_limit": float("inf")}
        dramatiq.actor(
            actor_name=ACTOR,
            queue_name=queue_name,
            broker=broker,
            # A broker has the options that its middleware knows.
            **{name: options[name] for name in options.keys() & broker.actor_options},
        )(run_message)
    broker.declare_queue(queue_name)


def _publisher(broker: Any) -> Any:
    """The broker again, on connections that are quick to give up."""
    publisher = copy.copy(broker)
    if hasattr(getattr(broker, "client", None), "connection_pool"):  # Redis
        client = publisher.client = impatient(broker.client)
        publisher.scripts = {
            name: client.register_script(script.script) for name, script in broker.scripts.items()
        }
    if hasattr(broker, "parameters"):  # RabbitMQ
        several = isinstance(broker.parameters, list)
        servers = [
            copy.copy(each) for each in (broker.parameters if several else [broker.parameters])
        ]
        for server in servers:
            server.connection_attempts = 1
            server.retry_delay = 0
            server.socket_timeout = server.stack_timeout = TIMEOUT / len(servers)
            server.blocked_connection_timeout = TIMEOUT
        publisher.parameters = servers if several else servers[0]
        publisher.confirm_delivery = False  # which would be waited for without a limit
        publisher.state = threading.local()
    return publisher


def _connect(publisher: Any) -> None:
    """Connect to RabbitMQ, if need be, once: ``enqueue()`` would try six times."""
    if not hasattr(publisher, "parameters"):
        return
    if hasattr(publisher.state, "connection"):
        try:
            publisher.connection.process_data_events()  # notices that it was cut
        except Exception:
            del publisher.connection
    publisher.connection  # noqa: B018
