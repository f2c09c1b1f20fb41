"""Small files that obstore sends to S3, on a real server, and when they are left to boto3."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.credentials import Credentials
from storages.backends.s3 import S3Storage

from queued_storage.files.streams import MeasuredFile
from queued_storage.ledger.states import State
from queued_storage.tasks import TransferAndDelete
from queued_storage.uploaders.s3 import by_obstore, put, trust
from queued_storage.uploaders.s3.checksums import sum_of
from queued_storage.uploaders.s3.trust import Trust
from queued_storage.uploaders.s3.uploader import S3Uploader
from tests.support.lying_proxy import Lie, LyingProxy
from tests.support.scripted import file, make, read, row
from tests.support.services import S3Server

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.usefixtures("asked_soon"),
]

pytest.importorskip("obstore")

CONTENT = b"every byte of it"
SHA256 = {"ChecksumAlgorithm": "SHA256"}


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of what obstore has sent with success."""
    found: list[str] = []
    send = by_obstore.Sender.send

    def spy(self: by_obstore.Sender, key: str, *args: Any) -> str | None:
        answered = send(self, key, *args)
        if answered is not None:
            found.append(key)
        return answered

    monkeypatch.setattr(by_obstore.Sender, "send", spy)
    return found


@pytest.fixture
def hop(s3_server: S3Server) -> Iterator[LyingProxy]:
    with LyingProxy(s3_server) as proxy:
        yield proxy


@pytest.fixture
def options(hop: LyingProxy, s3_server: S3Server, s3_bucket: str) -> dict[str, Any]:
    return {**s3_server.options(s3_bucket, hop.endpoint_url), "object_parameters": dict(SHA256)}


@pytest.fixture
def direct(s3_server: S3Server, s3_bucket: str) -> dict[str, Any]:
    """For many requests: without the hop."""
    return {**s3_server.options(s3_bucket), "object_parameters": dict(SHA256)}


def warm(remote: S3Storage, **more: Any) -> Any:
    """A storage whose server was asked, and for which boto3 has made a request of each kind."""
    storage = make(remote=remote, task=TransferAndDelete, **more)
    for _number in range(3):
        name = storage.save("warm.txt", file(b"warm"))
        assert storage.queue.deliver() == {}
        storage.delete(name)
        assert storage.queue.deliver() == {}
    return storage


def carry(storage: Any, *names: str) -> set[str]:
    """Transfers files of these names; returns what was proved."""
    for name in names:
        storage.save(name, file(CONTENT))
    assert storage.queue.deliver() == {}
    assert {read(storage, name) for name in names} == {CONTENT}
    return {row(storage, name).verified for name in names}


# What is stored

PARAMETERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "prefix": {"location": "media/files"},
    "ACL": {"default_acl": "public-read"},
    "parameters": {
        "object_parameters": {
            "CacheControl": "max-age=86400",
            "ContentDisposition": 'attachment; filename="a b.txt"',
            "ContentLanguage": "de",
            "Expires": "Thu, 01 Jan 2037 00:00:00 GMT",
            "Metadata": {"origin": "test", "Second": "2"},
            "StorageClass": "STANDARD",
            "Tagging": "kind=test&of=two%20words",
            "WebsiteRedirectLocation": "/elsewhere",
        }
    },
    "encryption": {"object_parameters": {"ServerSideEncryption": "AES256"}},
    "content type": {"object_parameters": {"ContentType": "text/x-mine"}},
}
VARYING = ("ResponseMetadata", "LastModified")


def described(client: BaseClient, bucket: str, key: str) -> dict[str, Any]:
    of: dict[str, Any] = {"Bucket": bucket, "Key": key}
    head = client.head_object(**of, ChecksumMode="ENABLED")
    found = {name: value for name, value in head.items() if name not in VARYING}
    found["tags"] = client.get_object_tagging(**of)["TagSet"]
    found["grants"] = client.get_object_acl(**of)["Grants"]
    return found


@pytest.mark.parametrize("extra", PARAMETERS.values(), ids=list(PARAMETERS))
def test_an_object_is_what_the_storages_own_save_makes(
    extra: dict[str, Any],
    direct: dict[str, Any],
    sent: list[str],
    s3_client: BaseClient,
    s3_bucket: str,
) -> None:
    name = "b.tar.gz"  # which has an encoding, too
    parameters = {**extra.get("object_parameters", {}), **SHA256}
    remote = S3Storage(**{**direct, **extra, "object_parameters": parameters})
    key = remote._normalize_name(name)
    remote.save(name, file(CONTENT))
    expected = described(s3_client, s3_bucket, key)
    remote.delete(name)

    storage = warm(remote)
    first = "first" + name  # boto3 makes the first request of a type
    assert carry(storage, first, name) == {"checksum"}
    assert key in sent
    assert described(s3_client, s3_bucket, key) == expected
    assert expected["ChecksumSHA256"]


def test_a_key_of_ones_own(direct: dict[str, Any], sent: list[str]) -> None:
    key = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "0" * 32}
    storage = warm(S3Storage(**direct | {"object_parameters": {**key, **SHA256}}))
    assert carry(storage, "a.txt") == {"checksum"}
    assert "a.txt" in sent
    head = storage.uploader._head("a.txt")
    assert head["SSECustomerAlgorithm"] == "AES256"


def test_names(direct: dict[str, Any], sent: list[str]) -> None:
    storage = warm(S3Storage(**direct))
    names = ["docs/ü b#?%+&=é😀~.txt", "a%20b.txt", "(*[x]{y}^`'!@$,;:).txt"]
    assert carry(storage, *names) == {"checksum"}
    assert set(names) <= set(sent)


@pytest.mark.parametrize("key", ["a//b", "/a", "a/"])
def test_a_key_that_would_become_another_is_not_sent(key: str) -> None:
    assert not by_obstore.Sender(None).is_ready(key)
    assert by_obstore.Sender(None).is_ready("a/b")


def test_sizes(direct: dict[str, Any], sent: list[str]) -> None:
    storage = warm(S3Storage(**direct))
    for size in (0, 1, 1024 * 1024):
        data = os.urandom(size)
        name = storage.save(f"{size}.txt", file(data))
        assert storage.queue.deliver() == {}
        assert (read(storage, name), row(storage, name).verified) == (data, "checksum")
        assert name in sent


def test_an_object_with_a_crc32_is_left_to_boto3(
    direct: dict[str, Any], sent: list[str], s3_client: BaseClient, s3_bucket: str
) -> None:
    """Which is what boto3 makes by itself: obstore would store it without."""
    storage = warm(S3Storage(**direct | {"object_parameters": {}}))
    assert carry(storage, "a.txt") == {"checksum"}
    assert sent == []
    head = s3_client.head_object(Bucket=s3_bucket, Key="a.txt", ChecksumMode="ENABLED")
    assert head["ChecksumCRC32"]


# Proof and condition


def test_a_small_file_takes_one_request(
    options: dict[str, Any], hop: LyingProxy, sent: list[str]
) -> None:
    storage = warm(S3Storage(**options))
    assert trust.known(storage.remote, "SHA256") == Trust(checksums=True, conditions=True)
    hop.requests.clear()
    names = ["a.txt", "b.txt", "c.txt"]
    for name in names:
        storage.save(name, file(CONTENT))
    assert storage.queue.deliver() == {}
    assert [method for method, _path in hop.requests] == ["PUT"] * 3
    assert {row(storage, name).verified for name in names} == {"checksum"}
    assert set(names) <= set(sent)


def test_the_first_files_are_proved_by_their_sha256(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the server was asked what it does."""
    monkeypatch.setattr(trust, "PROBE_AFTER", 1000)
    storage = make(remote=S3Storage(**options), task=TransferAndDelete)
    assert carry(storage, "a.txt") == {"checksum"}


@pytest.mark.parametrize("lie", [lie for lie in Lie if "FLIP_AND" not in lie.name], ids=str)
def test_a_server_that_begins_to_lie(
    lie: Lie, options: dict[str, Any], hop: LyingProxy, s3_client: BaseClient, s3_bucket: str
) -> None:
    storage = warm(S3Storage(**options))
    hop.lie = lie
    name = storage.save("a.txt", file(CONTENT))
    storage.queue.deliver()
    hop.lie = None
    if row(storage, name).state == State.TRANSFERRED:
        found = s3_client.get_object(Bucket=s3_bucket, Key="a.txt")["Body"].read()
        assert (lie, found) == (Lie.HIDE, CONTENT)
    else:
        assert read(storage, name) == CONTENT


@pytest.mark.parametrize("lie", [lie for lie in Lie if lie != Lie.GARBLE], ids=str)
def test_a_server_that_lies_from_the_beginning_is_not_trusted(
    lie: Lie, options: dict[str, Any], hop: LyingProxy
) -> None:
    hop.lie = lie
    assert not trust.trust_in(S3Storage(**options), "SHA256").checksums


def test_a_foreign_object_stays(
    direct: dict[str, Any], s3_client: BaseClient, s3_bucket: str
) -> None:
    storage = warm(S3Storage(**direct))
    s3_client.put_object(Bucket=s3_bucket, Key="a.txt", Body=b"theirs")
    assert carry(storage, "a.txt") == {"checksum"}
    assert row(storage, "a.txt").remote_name != "a.txt"
    assert s3_client.get_object(Bucket=s3_bucket, Key="a.txt")["Body"].read() == b"theirs"


def test_new_content_takes_the_place_of_old(direct: dict[str, Any], sent: list[str]) -> None:
    storage = warm(S3Storage(**direct))
    for number in range(4):
        with storage.open("a.txt", "wb") as opened:
            opened.write(b"%d" % number)
        assert storage.queue.deliver() == {}
        assert read(storage, "a.txt") == b"%d" % number
        assert row(storage, "a.txt").remote_name == "a.txt"
    assert sent.count("a.txt") >= 2


# When it is left to boto3


def test_the_uploader_without_it(direct: dict[str, Any], sent: list[str]) -> None:
    plain = "queued_storage.uploaders.s3.PlainS3Uploader"
    assert carry(warm(S3Storage(**direct), uploader=plain), "a.txt") == {"checksum"}
    assert sent == []


def test_an_installation_without_it(
    direct: dict[str, Any], sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_obstore, "IS_INSTALLED", False)
    assert carry(warm(S3Storage(**direct)), "a.txt") == {"checksum"}
    assert sent == []


@pytest.mark.parametrize(
    "config",
    [
        {"connect_timeout": None},
        {"read_timeout": None},
        {"client_cert": "/tmp/none.pem"},
        {"proxies": {"https": "http://127.0.0.1:9"}},
    ],
    ids=lambda config: next(iter(config)),
)
def test_a_connection_that_it_would_not_make_alike(
    config: dict[str, Any], direct: dict[str, Any], sent: list[str]
) -> None:
    remote = S3Storage(**direct | {"client_config": S3Server.client_config(**config)})
    assert carry(warm(remote), "a.txt") == {"checksum"}
    assert sent == []


def template_for(client: Any, base: str) -> put.Template:
    """With what obstore is given, and nothing that boto3's connections need."""
    unused: Any = None
    return put.Template(
        pool=unused,
        base=base,
        path="",
        headers={},
        sign=unused,
        signer=client._request_signer,
        signing=("s3", "us-east-1", "s3v4"),
    )


@pytest.mark.parametrize(
    ("scheme", "verify", "mirrored"),
    [
        ("https", True, True),
        ("https", False, False),
        ("https", "/etc/ssl/certs/mine.pem", False),
        ("http", "/etc/ssl/certs/mine.pem", True),
    ],
)
def test_certificates_that_are_not_looked_at_as_usual(
    scheme: str, verify: Any, mirrored: bool, direct: dict[str, Any]
) -> None:
    remote = S3Storage(**direct | {"verify": verify})
    client = remote.connection.meta.client
    client._endpoint.http_session._verify = verify  # a variable of the environment may say more
    template = template_for(client, f"{scheme}://127.0.0.1:9/bucket/")
    found = by_obstore.sender(remote, client, template, sum_of("SHA256", b""))
    assert (found is not None) == mirrored


def test_a_process_with_cooperative_threads(
    direct: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """obstore's waiting would hold up all of them."""
    remote = S3Storage(**direct)
    client = remote.connection.meta.client
    template = template_for(client, "http://127.0.0.1:9/bucket/")
    checksum = sum_of("SHA256", b"")
    assert by_obstore.sender(remote, client, template, checksum)
    monkeypatch.setattr(by_obstore, "socket", pytest.importorskip("gevent.socket"))
    assert not by_obstore.sender(remote, client, template, checksum)


@pytest.mark.parametrize("config", [{"signature_version": "s3"}], ids=str)
def test_another_signature(config: dict[str, Any], direct: dict[str, Any], sent: list[str]) -> None:
    remote = S3Storage(**direct | {"client_config": S3Server.client_config(**config)})
    assert carry(warm(remote), "a.txt") == {"checksum"}
    assert sent == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_SERVER_SIDE_ENCRYPTION", "aws:kms"),
        ("AWS_SSE_CUSTOMER_KEY_BASE64", "AAAA"),
        ("AWS_PROXY_URL", "http://127.0.0.1:9"),
        ("HTTPS_PROXY", "http://127.0.0.1:9"),
    ],
)
def test_variables_of_which_boto3_makes_something_else(
    name: str, value: str, direct: dict[str, Any], sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert carry(warm(S3Storage(**direct)), "a.txt") == {"checksum"}
    assert sent == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_ACCESS_KEY_ID", "somebody"),
        ("AWS_CHECKSUM_ALGORITHM", "crc64nvme"),
        ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9"),
        ("AWS_REQUEST_PAYER", "requester"),
        ("AWS_SKIP_SIGNATURE", "true"),
        ("AWS_UNSIGNED_PAYLOAD", "true"),
        ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "false"),
        ("AWS_DEFAULT_CONTENT_TYPE", "text/x-other"),
        ("NO_PROXY", "localhost"),
    ],
)
def test_variables_that_are_overruled(
    name: str,
    value: str,
    direct: dict[str, Any],
    sent: list[str],
    monkeypatch: pytest.MonkeyPatch,
    s3_client: BaseClient,
    s3_bucket: str,
) -> None:
    monkeypatch.setenv(name, value)
    assert carry(warm(S3Storage(**direct)), "a.txt") == {"checksum"}
    assert "a.txt" in sent
    assert s3_client.head_object(Bucket=s3_bucket, Key="a.txt")["ContentType"] == "text/plain"


def test_a_header_that_it_could_not_send(direct: dict[str, Any], sent: list[str]) -> None:
    """Two blanks, which each signs in its own way."""
    parameters = {"Metadata": {"origin": "two  blanks"}, **SHA256}
    remote = S3Storage(**direct | {"object_parameters": parameters})
    assert carry(warm(remote), "a.txt") == {"checksum"}
    assert sent == []


def test_one_that_fails_is_left_to_boto3_and_the_next_ones_too(
    direct: dict[str, Any], sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_obstore, "REST", 2)
    tries: list[str] = []

    def fail(store: Any, key: str, *args: Any, **kwargs: Any) -> Any:
        tries.append(key)
        raise OSError("no")

    storage = warm(S3Storage(**direct))
    [sender] = [each for each in by_obstore._stores[storage.remote].values() if each.is_ready("a")]
    with monkeypatch.context() as patches:
        patches.setattr(sender, "_put", fail)
        assert carry(storage, *(f"{number}.txt" for number in range(6))) == {"checksum"}
    assert len(tries) == 2
    assert carry(storage, "a.txt") == {"checksum"}
    assert sent[-1] == "a.txt"


def test_an_answer_that_shows_nothing_is_asked_about(
    direct: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of a server that encrypts with a key of its own."""
    storage = warm(S3Storage(**direct))
    [sender] = [each for each in by_obstore._stores[storage.remote].values() if each.is_ready("a")]
    put = sender._put
    monkeypatch.setattr(
        sender, "_put", lambda *args, **kwargs: put(*args, **kwargs) | {"e_tag": '"0"'}
    )
    assert carry(storage, "a.txt", "b.txt") == {"checksum"}
    assert not sender.is_ready("c.txt")


def test_the_credentials_are_those_of_the_moment(direct: dict[str, Any]) -> None:
    remote = S3Storage(**direct)
    signer = remote.connection.meta.client._request_signer
    found = by_obstore.Credentials(signer, ("s3", "us-east-1", "s3v4"))
    assert found()["access_key_id"] == S3Server.ACCESS_KEY
    signer._credentials = Credentials("newer", "secret", "token")
    assert {**found(), "expires_at": None} == {
        "access_key_id": "newer",
        "secret_access_key": "secret",
        "token": "token",
        "expires_at": None,
    }


@pytest.fixture
def child() -> Callable[[Callable[[], object]], int]:
    """Runs something in a plain fork of this process; the exit status is 0 if it was true."""

    def run(work: Callable[[], object]) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                os._exit(0 if work() else 1)
            finally:
                os._exit(2)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    return run


# So says Python 3.12, rightly: the child is what is tested.
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_of_a_process_that_used_it_does_without(
    direct: dict[str, Any], sent: list[str], child: Callable[[Callable[[], object]], int]
) -> None:
    """Its threads are not in the child, so a request there would never end."""
    remote = S3Storage(**direct)
    carry(warm(remote), "a.txt")
    senders = list(by_obstore._stores[remote].values())
    assert senders
    assert all(sender.is_ready("b.txt") for sender in senders)

    def finds_none_and_transfers() -> bool:
        is_cut_off = not any(sender.is_ready("b.txt") for sender in senders)
        uploader = S3Uploader(remote)
        for number in range(3):
            content = MeasuredFile(file(CONTENT), f"{number}.txt")
            uploader.upload(f"child/{number}.txt", content)
        return is_cut_off and uploader.has_proof

    sent.clear()
    assert child(finds_none_and_transfers) == 0
    assert remote.exists("child/2.txt")
