"""Error texts without secrets."""

import pytest
from django.core.files.storage import FileSystemStorage, Storage

from queued_storage.reporting.reasons import MAX_LENGTH, reason
from tests.support.scripted import file, make, row

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]


class Keeper(Storage):
    """A storage that keeps its options as attributes, as django-storages does."""

    def __init__(self, **options: object) -> None:
        vars(self).update(options)


def test_a_reason_names_the_error() -> None:
    assert reason(ValueError("no good")) == "ValueError: no good"
    assert reason(TimeoutError()) == "TimeoutError"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at https://user:hunter2@host/x", "at https://…@host/x"),
        ("at ftp://user:hunt@er2@host:21/x", "at ftp://…@host:21/x"),
        ("at redis+ssl://:hunter2@host", "at redis+ssl://…@host"),
        ("PUT https://b.s3.example/k?X-Amz-Signature=hunter2&x=1 failed", "k?… failed"),
        ("GET 'https://b.example/k?sig=hunter2': 403", "k?…': 403"),
        ("url: /media/a.txt?token=hunter2 (Caused by", "/media/a.txt?… (Caused by"),
        ("<Url>https://b.example/k?a=hunter2</Url>", "https://b.example/k?…"),
        ("https://b.example/k#access_token=hunter2", "https://b.example/k"),
        ("AccountName=a;AccountKey=hunter2==;Endpoint=x", "AccountName=a"),
        ("could not connect: host=h user=u password=hunter2", "host=h user=u"),
        ("{'password': 'hunter2', 'host': 'h'}", "'host': 'h'"),
        ('{"secret_key": "hunter2", "host": "h"}', '"host": "h"'),
        ("Authorization: Bearer hunter2", "Authorization"),
        ("Authorization: AWS4-HMAC-SHA256 Credential=hunter2/x, Signature=hunter2", "Authoriz"),
        ("X-Amz-Security-Token: hunter2", "X-Amz-Security-Token"),
    ],
)
def test_credentials_and_signatures_are_left_out(text: str, shown: str) -> None:
    found = reason(OSError(text))
    assert "hunter2" not in found
    assert "er2" not in found
    assert shown in found


@pytest.mark.parametrize(
    "text",
    [
        "The remote holds 'a?b.txt' with bytes 5, but 6 was sent.",
        "[Errno 2] No such file or directory: '/media/what?.txt'",
        "https://b.example/k answered 503",
        "a token was expected, found a key",
        "mail@example.com: 50% of a@b",
        'Could not connect to the endpoint URL: "http://127.0.0.1:1/bucket/a@b.txt"',
    ],
)
def test_other_text_is_kept(text: str) -> None:
    assert reason(OSError(text)) == f"OSError: {text}"


@pytest.mark.parametrize(
    "option",
    ["secret_key", "access_key", "security_token", "password", "account_key", "sas_token",
     "connection_string", "cloudfront_key", "_password", "passwd", "private_key", "api_secret"],
)  # fmt: skip
def test_secret_options_of_a_storage_are_left_out(option: str) -> None:
    for storage in (Keeper(**{option: "hunter2"}), Keeper(options={option: "hunter2"})):
        found = reason(OSError("denied to hunter2 by /hunter2/"), FileSystemStorage(), storage)
        assert found == "OSError: denied to … by /…/"


def test_public_options_of_a_storage_are_kept() -> None:
    storage = Keeper(bucket_name="media", location="a", region="b", secret_key="x")
    assert reason(OSError("no bucket media at x"), storage) == "OSError: no bucket media at x"


def test_a_reason_fits_its_column_and_every_database() -> None:
    found = reason(ValueError("a\0b " + "x" * 10_000))
    assert "\0" not in found
    assert len(found) <= MAX_LENGTH
    assert found.endswith("…")


def test_a_truncated_secret_is_left_out() -> None:
    text = "x" * (MAX_LENGTH - 30) + " https://user:hunter2@host/"
    assert "hunt" not in reason(ValueError(text))


@pytest.mark.timeout(10)
@pytest.mark.parametrize("piece", ["x", "/", "a/b", "://", "-", "secret", "@", "?x=", "token="])
def test_a_huge_text_takes_little_time(piece: str) -> None:
    for _time in range(3):
        reason(ValueError(piece * 1_000_000))


@pytest.mark.django_db(transaction=True)
def test_the_ledger_stores_no_secret() -> None:
    """In version 0.3, the secret was readable in the broker."""
    storage = make()
    storage.remote.secret_key = "hunter2"

    def fail(name: str) -> None:
        raise ConnectionError("https://u:p4ss@host/k?X-Amz-Signature=abc said no to hunter2")

    storage.remote.before["_save"] = fail
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    assert row(storage, name).last_error == "ConnectionError: https://…@host/k?… said no to …"
    assert "hunter2" not in repr(storage.queue.messages)
