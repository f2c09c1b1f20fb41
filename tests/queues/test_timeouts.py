"""Copies of Redis clients that give up soon."""

from typing import Any

import pytest
import redis
from redis.sentinel import Sentinel

from queued_storage.queues.timeouts import REDIS_OPTIONS, with_timeouts

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]

PATIENT: dict[str, Any] = {"socket_timeout": 60, "socket_connect_timeout": 60}


def options_of(client: redis.Redis) -> dict[str, Any]:
    connection = client.connection_pool.make_connection()
    return {name: getattr(connection, name) for name in PATIENT}


def test_the_copy_has_connections_of_its_own() -> None:
    client = redis.Redis(db=3, decode_responses=True, **PATIENT)
    copy = with_timeouts(client)
    assert type(copy) is redis.Redis
    assert copy.connection_pool is not client.connection_pool
    assert options_of(copy) == {name: REDIS_OPTIONS[name] for name in PATIENT}
    assert options_of(client) == PATIENT
    kept = copy.connection_pool.connection_kwargs
    assert (kept["db"], kept["decode_responses"]) == (3, True)


def test_sentinels_have_timeouts_too() -> None:
    sentinel = Sentinel([("127.0.0.1", 1), ("127.0.0.1", 2)], sentinel_kwargs=PATIENT, **PATIENT)
    client = sentinel.master_for("main")
    pool = with_timeouts(client).connection_pool
    assert pool.service_name == "main"
    manager = pool.connection_kwargs["connection_pool"].sentinel_manager
    for asked in (*manager.sentinels, redis.Redis(connection_pool=pool)):
        assert options_of(asked) == {name: REDIS_OPTIONS[name] for name in PATIENT}
    for untouched in (*sentinel.sentinels, client):
        assert options_of(untouched) == PATIENT
