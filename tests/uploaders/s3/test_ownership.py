"""Whose an object in a bucket is."""

import io
import os
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.awsrequest import AWSResponse
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import ClientError
from storages.backends.s3 import S3Storage
from urllib3 import HTTPResponse

from queued_storage.ledger.database import ledger
from queued_storage.ledger.names import is_reserved
from queued_storage.ledger.states import State
from queued_storage.operations.comparison import verify
from queued_storage.operations.passes import Step
from queued_storage.operations.pruning import prune
from queued_storage.tasks import TransferAndDelete
from queued_storage.transfers import work
from queued_storage.uploaders import uploader_for
from queued_storage.uploaders.s3 import trust
from tests.support.fault_proxy import FaultProxy, Mode
from tests.support.scripted import ScriptedStorage, file, make, make_due, read, row

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.usefixtures("asked_soon"),
    pytest.mark.one_lane,
]

MIB = 1024 * 1024
SIZES = [16, 6 * MIB]  # the larger one is sent in parts
Options = dict[str, Any]


def remote_of(options: Options, **more: Any) -> S3Storage:
    config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    return S3Storage(**options | {"transfer_config": config} | more)


def probed(remote: S3Storage) -> S3Storage:
    storage = make(remote=remote)
    for _number in range(3):
        name = storage.save("first.txt", file(b"first"))
        assert storage.queue.deliver() == {}
        storage.delete(name)
        assert storage.queue.deliver() == {}
    assert trust.known(remote).conditions
    return remote


@pytest.fixture(params=[False, True], ids=["unknown server", "probed server"])
def remote(request: pytest.FixtureRequest, s3_options: Options) -> S3Storage:
    made = remote_of(s3_options)
    return probed(made) if request.param else made


@pytest.fixture
def objects(s3_client: BaseClient, s3_bucket: str) -> Callable[[], dict[str, bytes]]:
    def look() -> dict[str, bytes]:
        found = s3_client.list_objects_v2(Bucket=s3_bucket).get("Contents", [])
        get = s3_client.get_object
        keys = [each["Key"] for each in found if not is_reserved(each["Key"])]
        return {key: get(Bucket=s3_bucket, Key=key)["Body"].read() for key in keys}

    return look


def finish(storage: Any) -> None:
    for name in ledger().filter(alias=storage.alias).values_list("name", flat=True):
        if row(storage, name).due_at:
            assert work.run(make_due(storage, name)) is None


@pytest.mark.parametrize("size", SIZES)
def test_a_look_alike_outlives_the_file(
    size: int, remote: S3Storage, s3_client: BaseClient, s3_bucket: str, objects: Any
) -> None:
    data = os.urandom(size)
    s3_client.put_object(Bucket=s3_bucket, Key="a.bin", Body=data)
    storage = make(remote=remote, task=TransferAndDelete)
    name = storage.save("a.bin", file(data))
    assert storage.queue.deliver() == {}
    assert row(storage, name).remote_name != "a.bin"
    assert read(storage, name) == data
    storage.delete(name)
    assert storage.queue.deliver() == {}
    assert objects() == {"a.bin": data}


@pytest.mark.parametrize("verb", ["retry", "delete"])
@pytest.mark.parametrize("size", SIZES)
def test_a_lost_answer_leaves_nothing_behind(
    size: int,
    verb: str,
    s3_proxy: FaultProxy,
    s3_proxy_options: Options,
    objects: Any,
) -> None:
    data = os.urandom(size)
    storage = make(remote=probed(remote_of(s3_proxy_options)))
    name = storage.save("a.bin", file(data))
    events = storage.remote.connection.meta.client.meta.events

    def lose(**kwargs: Any) -> None:
        s3_proxy.mode = Mode.LOSE_ANSWER

    if size > MIB:
        events.register("before-call.s3.CompleteMultipartUpload", lose)
    else:
        lose()
    assert storage.queue.deliver()
    events.unregister("before-call.s3.CompleteMultipartUpload", lose)
    s3_proxy.mode = Mode.OK
    assert objects() == {"a.bin": data}
    if verb == "delete":
        storage.delete(name)
    finish(storage)
    assert objects() == ({"a.bin": data} if verb == "retry" else {})
    if verb == "retry":
        assert row(storage, name).remote_name == "a.bin"


@pytest.mark.parametrize("verb", ["retry", "delete"])
@pytest.mark.parametrize("size", SIZES)
def test_an_object_that_came_meanwhile_stays(
    size: int,
    verb: str,
    s3_proxy: FaultProxy,
    s3_proxy_options: Options,
    s3_client: BaseClient,
    s3_bucket: str,
    objects: Any,
) -> None:
    data, theirs = os.urandom(size), os.urandom(size)
    storage = make(remote=probed(remote_of(s3_proxy_options)))
    name = storage.save("a.bin", file(data))
    s3_proxy.mode = Mode.REFUSE
    assert storage.queue.deliver()
    s3_proxy.mode = Mode.OK
    s3_client.put_object(Bucket=s3_bucket, Key="a.bin", Body=theirs)
    if verb == "delete":
        storage.delete(name)
    finish(storage)
    own = {row(storage, name).remote_name: data} if verb == "retry" else {}
    assert objects() == {"a.bin": theirs} | own


@pytest.mark.parametrize("is_own", [False, True])
def test_request_that_boto3_repeats_finds_its_object(
    is_own: bool, s3_options: Options, s3_client: BaseClient, s3_bucket: str, objects: Any
) -> None:
    config = s3_options["client_config"].merge(Config(retries={"total_max_attempts": 3}))
    remote = remote_of(s3_options, client_config=config)
    storage = make(remote=probed(remote), uploader="queued_storage.uploaders.s3.PlainS3Uploader")
    name = storage.save("a.txt", file(b"our bytes"))
    sent = []

    def fail_once(request: Any, **kwargs: Any) -> AWSResponse | None:
        if sent:
            return None
        sent.append(request)
        body = b"our bytes" if is_own else b"their own"
        s3_client.put_object(Bucket=s3_bucket, Key="a.txt", Body=body)
        raw = HTTPResponse(io.BytesIO(b""), preload_content=False)
        return AWSResponse(request.url, 503, {}, raw)

    remote.connection.meta.client.meta.events.register("before-send.s3.PutObject", fail_once)
    assert storage.queue.deliver() == {}
    assert len(sent) == 1
    if is_own:
        assert objects() == {"a.txt": b"our bytes"}
    else:
        assert objects() == {"a.txt": b"their own", row(storage, name).remote_name: b"our bytes"}


@pytest.mark.parametrize("folders", [("", ""), ("", "users"), ("users", "")], ids=str)
def test_two_storages_share_a_bucket(
    folders: tuple[str, str], s3_options: Options, objects: Any
) -> None:
    one, two = (
        make(
            remote=probed(remote_of(s3_options, location=folder)),
            local=ScriptedStorage(f"disk/{number}"),
            task=TransferAndDelete,
        )
        for number, folder in enumerate(folders)
    )
    names = ["users/a.txt" if folder == "" else "a.txt" for folder in folders]
    if folders == ("", ""):
        names = ["a.txt", "a.txt"]
    for storage, name in zip((one, two), names, strict=True):
        storage.save(name, file(b"the same"))
        assert storage.queue.deliver() == {}
    assert len(objects()) == 2
    one.delete(names[0])
    finish(one)
    assert read(two, names[1]) == b"the same"


# A bucket that is not there


@pytest.fixture
def lost_bucket(s3_options: Options) -> S3Storage:
    return remote_of(s3_options | {"bucket_name": f"not-there-{uuid.uuid4().hex}"})


def test_a_missing_bucket_is_no_missing_object(
    lost_bucket: S3Storage, s3_options: Options, s3_client: BaseClient, s3_bucket: str
) -> None:
    with pytest.raises(ClientError, match="NoSuchBucket"):
        uploader_for(lost_bucket).exists("a.txt")
    uploader = uploader_for(remote_of(s3_options))
    assert not uploader.exists("a.txt")
    for body in (b"", b"bytes"):
        s3_client.put_object(Bucket=s3_bucket, Key="a.txt", Body=body)
        assert uploader.exists("a.txt")


def test_nothing_is_buried_while_the_bucket_is_missing(
    lost_bucket: S3Storage, s3_options: Options
) -> None:
    storage = make(remote=remote_of(s3_options), task=TransferAndDelete)
    name = storage.save("a.txt", file(b"bytes"))
    assert storage.queue.deliver() == {}
    gone = make(remote=lost_bucket, task=TransferAndDelete)
    ledger().filter(pk=row(storage, name).pk).update(
        alias=gone.alias, place=gone.remote_place.digest
    )
    steps: list[Step] = []
    assert list(prune(ledger().all(), steps.append)) == []
    assert "NoSuchBucket" in steps[0].error
    [difference] = verify(ledger().all())
    assert difference.kind == "unreadable"
    with pytest.raises(ClientError, match="HeadBucket"):
        gone.open(name)
    gone.delete(name)
    [error] = gone.queue.deliver().values()
    assert "NoSuchBucket" in str(error)
    assert row(gone, name).state == State.DELETING
