"""Dramatiq."""

import copy
import os
import threading
from typing import Any

from ..exceptions import InvalidQueue, MissingLibrary
from .base import BaseQueue, given, imported, run_message
from .timeouts import TIMEOUT, with_timeouts

try:
    import dramatiq
    from dramatiq.broker import Broker
except ImportError as error:
    raise MissingLibrary("Dramatiq", "dramatiq") from error

ACTOR = "queued_storage.run"


class DramatiqQueue(BaseQueue):
    """Sends messages for the actor ``queued_storage.run`` to the workers of a Dramatiq broker.

    ``broker`` is the broker or its dotted path, by default the broker of
    ``dramatiq.set_broker()``. The other options are those of a Dramatiq message, with times in
    milliseconds. Without a ``time_limit`` there is none: Dramatiq's default of ten minutes may be
    too short for a large file.
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
        self.broker = _default_broker() if broker is None else _broker(broker)
        self._queue_name = queue_name
        self._options = given(
            broker_priority=broker_priority, time_limit=time_limit, max_age=max_age
        )
        try:
            _declare(self.broker, queue_name)
        except ValueError as error:
            raise InvalidQueue(f"queue_name={queue_name!r} cannot be used: {error}") from error
        self._publisher = _publisher(self.broker)
        self._pid = os.getpid()

    def enqueue(self, pks: list[int]) -> None:
        if self._pid != os.getpid():  # a fork cannot use the connections of its parent
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


# The broker


def _default_broker() -> Broker:
    if dramatiq.broker.global_broker is None:
        # get_broker() would create a broker on this host, and set_broker() would replace it later.
        raise InvalidQueue(
            "No Dramatiq broker was set when Django started. Set the option 'broker' to the dotted "
            "path of yours, or add django_dramatiq to INSTALLED_APPS."
        )
    return dramatiq.get_broker()


def _broker(spec: Broker | str) -> Broker:
    broker = imported(spec, "Dramatiq broker") if isinstance(spec, str) else spec
    if not isinstance(broker, Broker):
        raise InvalidQueue(f"{broker!r} is not a Dramatiq broker.")
    return broker


def _declare(broker: Broker, queue_name: str) -> None:
    """Make the broker's workers know the actor and consume the queue."""
    if ACTOR not in broker.actors:
        options: dict[str, Any] = {"max_retries": 0, "time_limit": float("inf")}
        dramatiq.actor(
            actor_name=ACTOR,
            queue_name=queue_name,
            broker=broker,
            # The middleware of a broker defines which options it accepts.
            **{name: options[name] for name in options.keys() & broker.actor_options},
        )(run_message)
    broker.declare_queue(queue_name)


# Its copy for publishing, which doesn't wait for a server longer than TIMEOUT


def _publisher(broker: Any) -> Any:
    publisher = copy.copy(broker)
    if hasattr(getattr(broker, "client", None), "connection_pool"):
        _use_redis(publisher, broker)
    if hasattr(broker, "parameters"):
        _use_rabbitmq(publisher, broker)
    return publisher


def _use_redis(publisher: Any, broker: Any) -> None:
    client = publisher.client = with_timeouts(broker.client)
    publisher.scripts = {
        name: client.register_script(script.script) for name, script in broker.scripts.items()
    }


def _use_rabbitmq(publisher: Any, broker: Any) -> None:
    several = isinstance(broker.parameters, list)
    servers = [copy.copy(each) for each in (broker.parameters if several else [broker.parameters])]
    for server in servers:
        server.connection_attempts = 1
        server.retry_delay = 0
        server.socket_timeout = server.stack_timeout = TIMEOUT / len(servers)
        server.blocked_connection_timeout = TIMEOUT
    publisher.parameters = servers if several else servers[0]
    publisher.confirm_delivery = False  # there is no time limit for a confirmation
    publisher.state = threading.local()


def _connect(publisher: Any) -> None:
    """Connect to RabbitMQ in one attempt. ``enqueue()`` would make six."""
    if not hasattr(publisher, "parameters"):
        return
    if hasattr(publisher.state, "connection"):
        try:
            publisher.connection.process_data_events()  # detects a lost connection
        except Exception:
            del publisher.connection
    publisher.connection  # noqa: B018
