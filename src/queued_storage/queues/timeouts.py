"""Time limits for connections to brokers."""

import copy
from typing import Any

TIMEOUT = 1.0  # seconds that a save may wait for a broker

REDIS_OPTIONS: dict[str, Any] = {
    "socket_timeout": TIMEOUT,
    "socket_connect_timeout": TIMEOUT,
    "retry": None,
    "retry_on_error": [],
    "retry_on_timeout": False,
}


def with_timeouts(client: Any) -> Any:
    """Return a copy of a Redis client that gives up after ``TIMEOUT`` seconds and never retries.

    It has connections of its own, because workers or a cache may use those of ``client``.
    """
    client = copy.copy(client)
    client.connection_pool = _pool_with_timeouts(client.connection_pool)
    return client


def _pool_with_timeouts(pool: Any) -> Any:
    from redis import ConnectionPool  # installed if there is a client

    options = pool.connection_kwargs | REDIS_OPTIONS | {"connection_class": pool.connection_class}
    if not hasattr(pool, "sentinel_manager"):
        return ConnectionPool(**options)
    del options["connection_pool"]
    return type(pool)(
        pool.service_name,
        _sentinels_with_timeouts(pool.sentinel_manager),
        is_master=pool.is_master,
        check_connection=pool.check_connection,
        **options,
    )


def _sentinels_with_timeouts(manager: Any) -> Any:
    manager = copy.copy(manager)
    manager.sentinels = [with_timeouts(sentinel) for sentinel in manager.sentinels]
    return manager
