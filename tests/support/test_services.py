import contextlib
import time
import unittest

import kombu
import pytest
import redis
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    ReadTimeoutError,
)
from django.core.files.base import ContentFile
from storages.backends.s3 import S3Storage

from tests.support import services
from tests.support.fault_proxy import Mode
from tests.support.services import S3Server

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]

BODY = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def through(s3_server, s3_proxy):
    """Return a client that uses the proxy and has short timeouts."""
    with contextlib.closing(s3_server.client(s3_proxy.endpoint_url, read_timeout=0.5)) as client:
        yield client


@pytest.fixture
def put(through, s3_bucket):
    def put(key="key", body=BODY):
        through.put_object(Bucket=s3_bucket, Key=key, Body=body)

    return put


@pytest.fixture
def stored(s3_client, s3_bucket):
    """Return the objects on the server by key."""

    def stored():
        listed = s3_client.list_objects_v2(Bucket=s3_bucket).get("Contents", [])
        return {
            entry["Key"]: s3_client.get_object(Bucket=s3_bucket, Key=entry["Key"])["Body"].read()
            for entry in listed
        }

    return stored


def test_s3_storage_works_with_the_options(s3_options):
    storage = S3Storage(**s3_options)
    name = storage.save("a/b.bin", ContentFile(BODY))
    with storage.open(name) as file:
        assert file.read() == BODY
    assert storage.size(name) == len(BODY)


def test_server_checks_signatures(s3_server, s3_bucket):
    options = s3_server.options(s3_bucket) | {"secret_key": "wrong"}
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        S3Storage(**options).save("a", ContentFile(b"a"))


def test_server_keeps_data_and_port_after_restart(tmp_path):
    services.require("s3")
    with S3Server() as server, contextlib.closing(server.client()) as client:
        port = server.port
        client.create_bucket(Bucket="kept")
        client.put_object(Bucket="kept", Key="key", Body=BODY)
        server.kill()
        with pytest.raises((EndpointConnectionError, ConnectionClosedError)):
            client.get_object(Bucket="kept", Key="key")
        server.start()
        assert client.get_object(Bucket="kept", Key="key")["Body"].read() == BODY
        server.restart()
        assert client.get_object(Bucket="kept", Key="key")["Body"].read() == BODY
        assert server.port == port
    assert not server.directory.exists()


def test_server_that_cannot_start_reports_the_error(monkeypatch):
    services.require("s3")
    server = S3Server()
    monkeypatch.setitem(server.ports, "s3", -1)
    with pytest.raises(RuntimeError, match="the S3 server ended"), server:
        pass
    assert not server.directory.exists()


def test_proxy_forwards_and_records_requests(s3_proxy, s3_bucket, put, stored, through):
    put()
    assert stored() == {"key": BODY}
    assert through.get_object(Bucket=s3_bucket, Key="key")["Body"].read() == BODY
    assert s3_proxy.requests == [f"PUT /{s3_bucket}/key", f"GET /{s3_bucket}/key"]


def test_proxy_refuses_connections_and_resumes_on_its_port(s3_proxy, put, stored):
    put("before")
    s3_proxy.mode = Mode.REFUSE
    with pytest.raises(EndpointConnectionError):
        put("refused")
    s3_proxy.mode = Mode.OK
    put("after")
    assert stored().keys() == {"before", "after"}


def test_proxy_hangs_and_drops_hanging_connections(s3_proxy, put, stored):
    s3_proxy.mode = "hang"
    with pytest.raises(ReadTimeoutError):
        put("hung")
    s3_proxy.mode = "ok"
    put("after")
    assert stored().keys() == {"after"}


@pytest.mark.parametrize("stops_after", [1, len(BODY) // 2])
def test_proxy_resets_in_the_middle_of_an_upload(s3_proxy, put, stored, stops_after):
    s3_proxy.stops_after = stops_after
    s3_proxy.mode = Mode.RESET_MID_BODY
    with pytest.raises(ConnectionClosedError):
        put()
    s3_proxy.mode = Mode.OK
    assert stored() == {}


def test_proxy_resets_in_the_middle_of_a_download(s3_proxy, s3_bucket, put, through):
    put()
    s3_proxy.stops_after = len(BODY) // 2
    s3_proxy.mode = Mode.RESET_MID_BODY
    body = through.get_object(Bucket=s3_bucket, Key="key")["Body"]
    with pytest.raises(Exception, match=r"IncompleteRead|Connection"):
        body.read()


def test_proxy_drops_the_response_after_a_put(s3_proxy, put, stored):
    s3_proxy.mode = Mode.LOSE_ANSWER
    with pytest.raises(ConnectionClosedError):
        put()
    assert stored() == {"key": BODY}


@pytest.mark.parametrize(("mode", "status"), [(Mode.STATUS_500, 500), (Mode.STATUS_503, 503)])
def test_proxy_responds_with_a_status(s3_proxy, put, stored, mode, status):
    s3_proxy.mode = mode
    with pytest.raises(ClientError) as caught:
        put()
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    s3_proxy.mode = Mode.OK
    assert stored() == {}


def test_proxy_is_slow(s3_proxy, put, stored):
    s3_proxy.mode = Mode.SLOW
    s3_proxy.delay = 0.02
    begun = time.monotonic()
    put(body=BODY[: 128 * 1024])
    assert time.monotonic() - begun > 8 * s3_proxy.delay
    assert stored() == {"key": BODY[: 128 * 1024]}


def test_redis_and_rabbitmq_respond(redis_url, amqp_url, queue_name):
    with redis.Redis.from_url(redis_url) as client:
        client.set(queue_name, "x")
        assert client.get(queue_name) == b"x"
    with kombu.Connection(amqp_url) as broker, broker.SimpleQueue(queue_name) as queue:
        queue.put("x")
        message = queue.get(timeout=5)
        message.ack()
        assert message.payload == "x"


@pytest.mark.parametrize(
    ("required", "error"), [("", unittest.SkipTest), ("1", services.ServiceMissing)]
)
def test_missing_service_skips_or_fails(monkeypatch, required, error):
    [port] = services.free_ports(1)
    monkeypatch.setenv("QUEUED_STORAGE_TEST_REDIS", f"redis://127.0.0.1:{port}/0")
    monkeypatch.setenv("QUEUED_STORAGE_TEST_REQUIRE_SERVICES", required)
    with pytest.raises(error, match=f"redis: nothing answers at 127.0.0.1:{port}"):
        services.require("redis")
