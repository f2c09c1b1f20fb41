"""One request for a small object, as boto3 sends it to a real server."""

from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError

from queued_storage.uploaders.s3 import small
from queued_storage.uploaders.s3.checksums import sum_of
from queued_storage.uploaders.s3.small import SmallObject

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]

CONTENT = b"every byte of it"
CHECKSUM = sum_of("SHA256", CONTENT)


@pytest.fixture
def what(s3_bucket: str) -> SmallObject:
    parameters = {"ContentType": "text/plain", "Metadata": {"origin": "test"}}
    return SmallObject(s3_bucket, "a b.txt", CONTENT, parameters)


def test_the_object_and_its_checksum(s3_client: Any, s3_bucket: str, what: SmallObject) -> None:
    answer = small.put_object(s3_client, what, CHECKSUM)
    assert answer.checksum == CHECKSUM.value
    head = s3_client.head_object(Bucket=s3_bucket, Key="a b.txt", ChecksumMode="ENABLED")
    assert head["ChecksumSHA256"] == CHECKSUM.value
    assert (head["ContentType"], head["Metadata"]) == ("text/plain", {"origin": "test"})


def test_a_wrong_checksum_is_refused(s3_client: Any, what: SmallObject) -> None:
    with pytest.raises(ClientError, match="BadDigest"):
        small.put_object(s3_client, what, sum_of("CRC32", b"other"))


def test_a_new_object_replaces_none(s3_client: Any, s3_bucket: str, what: SmallObject) -> None:
    new = SmallObject(s3_bucket, "a.txt", CONTENT, what.parameters, is_new=True)
    small.put_object(s3_client, new, CHECKSUM)
    with pytest.raises(ClientError, match="PreconditionFailed"):
        small.put_object(s3_client, new, CHECKSUM)


def test_the_request_is_seen(s3_client: Any, s3_bucket: str, what: SmallObject) -> None:
    seen = small.put_object(s3_client, what, CHECKSUM).request
    assert seen.url.endswith(f"/{s3_bucket}/a%20b.txt")
    assert seen.plain_headers()["x-amz-checksum-sha256"] == CHECKSUM.value
    assert seen.signing == ("s3", "us-east-1", "s3v4")
    assert seen.signer


@pytest.fixture
def expecting(s3_client: BaseClient) -> list[bool]:
    """Of each PUT, whether it waits for the server's leave to send its body."""
    found: list[bool] = []

    def note(request: Any, **kwargs: Any) -> None:
        found.append("Expect" in request.headers)

    s3_client.meta.events.register("before-send.s3.PutObject", note)
    return found


def test_the_body_is_sent_at_once(s3_client: Any, what: SmallObject, expecting: list[bool]) -> None:
    small.put_object(s3_client, what, CHECKSUM)
    assert expecting == [False]


def test_other_requests_stay_as_they_are(
    s3_client: Any, s3_bucket: str, what: SmallObject, expecting: list[bool]
) -> None:
    first = small.put_object(s3_client, what, CHECKSUM)
    s3_client.put_object(Bucket=s3_bucket, Key="other.txt", Body=b"of the project")
    assert expecting == [False, True]
    assert first.request.url.endswith("/a%20b.txt")
