"""Requests that are signed as boto3 would sign them."""

import datetime
from typing import Any
from unittest import mock

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from queued_storage.uploaders.s3.signing import Signing

HEADERS = {"content-type": "text/plain; charset=utf-8", "x-amz-checksum-crc32": "AAAAAA=="}
CHECKSUM = {"request_algorithm": {"in": "header", "name": "x-amz-checksum-crc32"}}
keys = st.text("abc/-_.~%20C3", min_size=1)  # as they stand in an address


def auth(token: str | None = None, secret: str = "secret") -> S3SigV4Auth:
    return S3SigV4Auth(Credentials("key", secret, token), "s3", "eu-central-1")


def request(key: str, data: bytes, headers: dict[str, str], scheme: str = "http") -> AWSRequest:
    made = AWSRequest("PUT", f"{scheme}://example.com/bucket/{key}", headers, data)
    made.context = {"client_config": Config(), "checksum": CHECKSUM, "has_streaming_input": True}
    return made


def signed_by_boto3(made: AWSRequest, by: S3SigV4Auth, when: datetime.datetime) -> dict[str, str]:
    with mock.patch("botocore.auth.get_current_datetime", return_value=when):
        by.add_auth(made)
    return {name.lower(): value for name, value in made.headers.items()}


@pytest.mark.parametrize("scheme", ["http", "https"])  # boto3 signs the bytes of one of them only
@pytest.mark.parametrize("token", [None, "session/token=="])
@given(
    key=keys,
    data=st.binary(max_size=50),
    checksum=st.text("abcAB01+/", min_size=6, max_size=6),
    when=st.datetimes(datetime.datetime(2020, 1, 1), datetime.datetime(2100, 1, 1)),
)
def test_a_request_like_the_first(
    scheme: str, token: str | None, key: str, data: bytes, checksum: str, when: datetime.datetime
) -> None:
    signing = Signing(auth(token), request("first", b"bytes", HEADERS, scheme))
    changed = {"x-amz-checksum-crc32": f"{checksum}=="}
    renewed = auth(token and "another token", secret="another one")
    found = signing.headers(renewed, f"/bucket/{key}", data, changed, f"{when:%Y%m%dT%H%M%SZ}")
    again = request(key, data, HEADERS | changed, scheme)
    assert HEADERS | found == signed_by_boto3(again, renewed, when)


def test_the_date_is_todays() -> None:
    signing = Signing(auth(), request("first", b"bytes", HEADERS))
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    found = signing.headers(auth(), "/bucket/a.txt", b"bytes", {})["x-amz-date"]
    when = datetime.datetime.strptime(f"{found}+0000", "%Y%m%dT%H%M%SZ%z")
    assert before <= when <= datetime.datetime.now(datetime.UTC)


def test_a_way_to_sign_that_is_another_one_is_refused() -> None:
    class Other(S3SigV4Auth):
        def signature(self, string_to_sign: str, request: Any) -> str:
            longer = f"{string_to_sign}{len(getattr(request, 'headers', ()))}"
            return str(super().signature(longer, request))

    other = Other(Credentials("key", "secret"), "s3", "eu-central-1")
    with pytest.raises(ValueError, match="another way"):
        Signing(other, request("first", b"bytes", HEADERS))


def test_credentials_that_begin_to_have_a_token() -> None:
    signing = Signing(auth(), request("first", b"bytes", HEADERS))
    with pytest.raises(ValueError, match="token"):
        signing.headers(auth("a token"), "/bucket/a.txt", b"bytes", {})
