"""Small files that obstore sends to a real S3 server, and those that it leaves to boto3."""

import gc
import json
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from botocore.client import BaseClient
from storages.backends.s3 import S3Storage

from queued_storage.exceptions import VerificationError
from queued_storage.files.streams import MeasuredFile
from queued_storage.ledger.states import Content, State
from queued_storage.tasks import TransferAndDelete
from queued_storage.uploaders.s3 import by_obstore, trust
from queued_storage.uploaders.s3.bucket import Bucket
from queued_storage.uploaders.s3.by_obstore import Outcome, can_send, substitute_for
from queued_storage.uploaders.s3.small import SeenRequest, SmallObject
from queued_storage.uploaders.s3.trust import Trust
from queued_storage.uploaders.s3.uploader import S3Uploader
from tests.support.lying_proxy import Lie, LyingProxy
from tests.support.scripted import file, make, read, row
from tests.support.services import S3Server

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.usefixtures("asked_soon"),
    pytest.mark.one_lane,
]

pytest.importorskip("obstore")

CONTENT = b"every byte of it"
SHA256 = {"ChecksumAlgorithm": "SHA256"}


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of what obstore has sent with success."""
    found: list[str] = []
    send = by_obstore.Sender.send

    def spy(self: by_obstore.Sender, what: SmallObject) -> Outcome:
        outcome = send(self, what)
        if outcome != Outcome.NOT_SENT:
            found.append(what.key)
        return outcome

    monkeypatch.setattr(by_obstore.Sender, "send", spy)
    return found


@pytest.fixture
def hop(s3_server: S3Server) -> Iterator[LyingProxy]:
    with LyingProxy(s3_server) as proxy:
        yield proxy


@pytest.fixture
def lying(hop: LyingProxy, s3_server: S3Server, s3_bucket: str) -> dict[str, Any]:
    """Options of a storage whose server may lie."""
    return s3_server.options(s3_bucket, hop.endpoint_url)


def warm(remote: S3Storage, **more: Any) -> Any:
    """A storage whose server was probed, and of which boto3 has sent a file of each kind."""
    storage = make(remote=remote, task=TransferAndDelete, **more)
    for _number in range(3):
        name = storage.save("warm.txt", file(b"warm"))
        assert storage.queue.deliver() == {}
        storage.delete(name)
        assert storage.queue.deliver() == {}
    return storage


def transfer(storage: Any, *names: str) -> set[str]:
    """Transfer files of these names; returns what was proved."""
    for name in names:
        storage.save(name, file(CONTENT))
    assert storage.queue.deliver() == {}
    assert {read(storage, name) for name in names} == {CONTENT}
    return {row(storage, name).verified for name in names}


def upload(remote: S3Storage, *names: str) -> S3Uploader:
    uploader = S3Uploader(remote)
    for name in names:
        uploader.upload(name, MeasuredFile(file(CONTENT), name))
    return uploader


def substitute(remote: S3Storage) -> by_obstore.Substitute | None:
    return substitute_for(Bucket(remote))


def only_sender(remote: S3Storage) -> Any:
    found = substitute(remote)
    assert found
    [sender] = found._kinds.values()
    return sender


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
    "SHA-256": {"object_parameters": SHA256},
}
VARYING = ("ResponseMetadata", "LastModified", "ChecksumCRC32", "ChecksumSHA256")


def described(client: BaseClient, bucket: str, key: str) -> dict[str, Any]:
    of: dict[str, Any] = {"Bucket": bucket, "Key": key}
    head = client.head_object(**of, ChecksumMode="ENABLED")
    found = {name: value for name, value in head.items() if name not in VARYING}
    found["tags"] = client.get_object_tagging(**of)["TagSet"]
    found["grants"] = client.get_object_acl(**of)["Grants"]
    return found


@pytest.mark.parametrize("extra", PARAMETERS.values(), ids=list(PARAMETERS))
def test_objects_are_as_the_storage_saves_them(
    extra: dict[str, Any],
    s3_options: dict[str, Any],
    sent: list[str],
    s3_client: BaseClient,
    s3_bucket: str,
) -> None:
    name = "b.tar.gz"  # with an encoding
    remote = S3Storage(**s3_options | extra)
    key = remote._normalize_name(name)
    remote.save(name, file(CONTENT))
    expected = described(s3_client, s3_bucket, key)
    remote.delete(name)

    assert transfer(warm(remote), name) == {"checksum"}
    assert sent[-1] == key
    assert described(s3_client, s3_bucket, key) == expected


def test_objects_have_a_sha256(
    s3_options: dict[str, Any], sent: list[str], s3_client: BaseClient, s3_bucket: str
) -> None:
    assert transfer(warm(S3Storage(**s3_options)), "a.txt") == {"checksum"}
    head = s3_client.head_object(Bucket=s3_bucket, Key="a.txt", ChecksumMode="ENABLED")
    assert head["ChecksumSHA256"]
    assert sent[-1] == "a.txt"


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA1"])
def test_an_algorithm_by_name_is_kept(
    algorithm: str,
    s3_options: dict[str, Any],
    sent: list[str],
    s3_client: BaseClient,
    s3_bucket: str,
) -> None:
    parameters = {"ChecksumAlgorithm": algorithm}
    transfer(warm(S3Storage(**s3_options | {"object_parameters": parameters})), "a.txt")
    head = s3_client.head_object(Bucket=s3_bucket, Key="a.txt", ChecksumMode="ENABLED")
    assert head[f"Checksum{algorithm}"]
    assert sent == []


def test_verifying_again_reads_the_object_back(
    s3_options: dict[str, Any], s3_client: BaseClient, s3_bucket: str
) -> None:
    """The ledger has no SHA-256 to compare."""
    storage = warm(S3Storage(**s3_options))
    transfer(storage, "a.txt")
    content = Content(row(storage, "a.txt").size, row(storage, "a.txt").checksum)
    assert storage.uploader.verify("a.txt", content, "checksum") == "content"
    other = {"Body": CONTENT[::-1], **SHA256}
    s3_client.put_object(Bucket=s3_bucket, Key="a.txt", **other)
    with pytest.raises(VerificationError, match="checksum"):
        storage.uploader.verify("a.txt", content, "checksum")


def test_a_key_of_the_customer(s3_options: dict[str, Any], sent: list[str]) -> None:
    key = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "0" * 32}
    remote = S3Storage(**s3_options | {"object_parameters": key})
    assert transfer(warm(remote), "a.txt") == {"checksum"}
    assert sent[-1] == "a.txt"
    head = remote.connection.meta.client.head_object(Bucket=remote.bucket_name, Key="a.txt", **key)
    assert head["SSECustomerAlgorithm"] == "AES256"


def test_names(s3_options: dict[str, Any], sent: list[str]) -> None:
    storage = warm(S3Storage(**s3_options))
    names = ["docs/ü b#?%+&=é😀~.txt", "a%20b.txt", "(*[x]{y}^`'!@$,;:).txt", " a .txt"]
    assert transfer(storage, *names) == {"checksum"}
    assert set(names) <= set(sent)


@pytest.mark.parametrize("key", ["a//b", "/a", "a/", "a\nb", "a\x01b"])
def test_keys_that_obstore_would_change(key: str) -> None:
    assert not by_obstore.is_ready_for(key)
    assert by_obstore.is_ready_for("a/b")


def test_sizes(s3_options: dict[str, Any], sent: list[str]) -> None:
    storage = warm(S3Storage(**s3_options))
    for size in (0, 1, 1024 * 1024):
        data = os.urandom(size)
        name = storage.save(f"{size}.txt", file(data))
        assert storage.queue.deliver() == {}
        assert (read(storage, name), row(storage, name).verified) == (data, "checksum")
        assert sent[-1] == name


class Described(S3Storage):
    """Every object has its own headers."""

    def get_object_parameters(self, name: str) -> dict[str, Any]:
        named = {"ContentDisposition": f'attachment; filename="{name}"'}
        return {**named, "Metadata": {"name": name}, "ACL": "private"}


def test_parameters_of_each_object(
    s3_options: dict[str, Any], sent: list[str], s3_client: BaseClient, s3_bucket: str
) -> None:
    remote = Described(**s3_options)
    names = ["a.txt", "b.html"]
    assert transfer(warm(remote), *names) == {"checksum"}
    assert sent[-2:] == names
    assert only_sender(remote)
    for name in names:
        head = s3_client.head_object(Bucket=s3_bucket, Key=name)
        assert head["ContentDisposition"] == f'attachment; filename="{name}"'
        assert head["Metadata"] == {"name": name}


def test_parameters_that_obstore_would_change(s3_options: dict[str, Any], sent: list[str]) -> None:
    remote = Described(**s3_options)
    storage = warm(remote)
    transfer(storage, "two  spaces.txt", "c.txt")
    assert sent[-1] == "c.txt"
    assert "two  spaces.txt" not in sent


def test_metadata_with_the_name_of_a_header(s3_options: dict[str, Any], sent: list[str]) -> None:
    parameters = {"Metadata": {"content-type": "text/x-other"}}
    transfer(warm(S3Storage(**s3_options | {"object_parameters": parameters})), "a.txt")
    assert sent == []


def test_headers_that_obstore_would_change(s3_options: dict[str, Any], sent: list[str]) -> None:
    parameters = {"WebsiteRedirectLocation": "/two  spaces"}
    transfer(warm(S3Storage(**s3_options | {"object_parameters": parameters})), "a.txt")
    assert sent == []


def test_headers_that_a_hook_of_boto3_adds(s3_options: dict[str, Any], sent: list[str]) -> None:
    remote = S3Storage(**s3_options)

    def add(request: Any, **kwargs: Any) -> None:
        request.headers["x-amz-meta-count"] = str(next(numbers))

    numbers = iter(range(1000))
    remote.connection.meta.client.meta.events.register("before-sign.s3.PutObject", add)
    transfer(warm(remote), "a.txt")
    assert sent == []


def test_many_kinds_are_left_to_boto3(
    s3_options: dict[str, Any], sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_obstore, "KINDS_MAX", 1)
    remote = S3Storage(**s3_options)
    storage = warm(remote)
    remote.object_parameters = {"ACL": "private"}
    transfer(storage, "a.txt", "b.txt")
    assert only_sender(remote)
    assert not {"a.txt", "b.txt"} & set(sent)


# Proof and condition


def test_a_small_file_takes_one_request(
    lying: dict[str, Any], hop: LyingProxy, sent: list[str]
) -> None:
    storage = warm(S3Storage(**lying))
    assert trust.known(storage.remote, "SHA256") == Trust(checksums=True, conditions=True)
    hop.requests.clear()
    names = ["a.txt", "b.txt", "c.txt"]
    for name in names:
        storage.save(name, file(CONTENT))
    assert storage.queue.deliver() == {}
    assert [method for method, _path in hop.requests] == ["PUT"] * 3
    assert {row(storage, name).verified for name in names} == {"checksum"}
    assert set(names) <= set(sent)


@pytest.mark.parametrize("parameters", [{}, SHA256], ids=["CRC-32", "SHA-256"])
def test_files_before_the_probe_are_proved(
    parameters: dict[str, str],
    s3_options: dict[str, Any],
    sent: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trust, "PROBE_AFTER", 1000)
    remote = S3Storage(**s3_options | {"object_parameters": parameters})
    assert transfer(make(remote=remote, task=TransferAndDelete), "a.txt") == {"checksum"}
    assert sent == []


@pytest.mark.parametrize("lie", [lie for lie in Lie if "FLIP_AND" not in lie.name], ids=str)
def test_a_server_that_begins_to_lie(
    lie: Lie, lying: dict[str, Any], hop: LyingProxy, s3_client: BaseClient, s3_bucket: str
) -> None:
    storage = warm(S3Storage(**lying))
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
def test_a_server_that_always_lied(
    lie: Lie, lying: dict[str, Any], hop: LyingProxy, sent: list[str]
) -> None:
    hop.lie = lie
    assert not trust.trust_in(S3Storage(**lying), "SHA256").checksums
    storage = make(remote=S3Storage(**lying))
    storage.save("a.txt", file(CONTENT))
    storage.queue.deliver()
    assert sent == []


def test_the_object_of_another_stays(
    s3_options: dict[str, Any], s3_client: BaseClient, s3_bucket: str, sent: list[str]
) -> None:
    storage = warm(S3Storage(**s3_options))
    s3_client.put_object(Bucket=s3_bucket, Key="a.txt", Body=b"theirs")
    assert transfer(storage, "a.txt") == {"checksum"}
    other = row(storage, "a.txt").remote_name
    assert s3_client.get_object(Bucket=s3_bucket, Key="a.txt")["Body"].read() == b"theirs"
    assert sent[-1] == other != "a.txt"  # obstore has no pause after that


def test_new_content_replaces_old(s3_options: dict[str, Any], sent: list[str]) -> None:
    storage = warm(S3Storage(**s3_options))
    for number in range(4):
        with storage.open("a.txt", "wb") as opened:
            opened.write(b"%d" % number)
        assert storage.queue.deliver() == {}
        assert read(storage, "a.txt") == b"%d" % number
        assert row(storage, "a.txt").remote_name == "a.txt"
    assert sent.count("a.txt") == 4


# When it is left to boto3


def test_the_uploader_without_obstore(s3_options: dict[str, Any], sent: list[str]) -> None:
    plain = "queued_storage.uploaders.s3.PlainS3Uploader"
    assert transfer(warm(S3Storage(**s3_options), uploader=plain), "a.txt") == {"checksum"}
    assert sent == []


def test_an_installation_without_obstore(
    s3_options: dict[str, Any], sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_obstore, "IS_INSTALLED", False)
    assert transfer(warm(S3Storage(**s3_options)), "a.txt") == {"checksum"}
    assert sent == []


@pytest.mark.parametrize("module", ["obstore", "obstore.exceptions"])
def test_an_installation_that_is_broken(
    module: str, s3_options: dict[str, Any], sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert transfer(warm(S3Storage(**s3_options)), "a.txt") == {"checksum"}
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
def test_connections_that_obstore_would_change(
    config: dict[str, Any], s3_options: dict[str, Any]
) -> None:
    assert substitute(S3Storage(**s3_options))
    other = {"client_config": S3Server.client_config(**config)}
    assert not substitute(S3Storage(**s3_options | other))


class OwnConnection(S3Storage):
    @property
    def connection(self) -> Any:
        return super().connection


def test_a_connection_of_the_project(s3_options: dict[str, Any]) -> None:
    assert not substitute(OwnConnection(**s3_options))


@pytest.mark.parametrize(
    ("scheme", "verify", "is_usual"),
    [
        ("https", None, True),
        ("https", True, True),
        ("https", False, False),
        ("https", "/etc/ssl/certs/mine.pem", False),
        ("http", "/etc/ssl/certs/mine.pem", True),
    ],
)
def test_certificates_of_the_storage(
    scheme: str,
    verify: Any,
    is_usual: bool,
    s3_options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    other = {"verify": verify, "endpoint_url": f"{scheme}://127.0.0.1:9"}
    monkeypatch.setattr(os.path, "exists", lambda path: True)  # which boto3 looks at
    assert bool(substitute(S3Storage(**s3_options | other))) == is_usual


@pytest.mark.parametrize("name", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_certificates_of_the_environment(
    name: str, s3_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mine.pem").touch()
    monkeypatch.setenv(name, str(tmp_path / "mine.pem"))
    other = {"endpoint_url": "https://127.0.0.1:9"}
    assert not substitute(S3Storage(**s3_options | other))


def test_a_process_with_cooperative_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of obstore would stop all of them."""
    assert can_send(None)
    monkeypatch.setattr(by_obstore, "socket", pytest.importorskip("gevent.socket"))
    assert not can_send(None)


def test_another_signature(s3_options: dict[str, Any], sent: list[str]) -> None:
    other = {"client_config": S3Server.client_config(signature_version="s3")}
    assert transfer(warm(S3Storage(**s3_options | other)), "a.txt") == {"checksum"}
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
def test_variables_that_change_its_requests(
    name: str, value: str, s3_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert not substitute(S3Storage(**s3_options))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_ACCESS_KEY_ID", "somebody"),
        ("AWS_CHECKSUM_ALGORITHM", "crc64nvme"),
        ("AWS_CONDITIONAL_PUT", "disabled"),
        ("AWS_DEFAULT_CONTENT_TYPE", "text/x-other"),
        ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9"),
        ("AWS_REQUEST_PAYER", "requester"),
        ("AWS_SKIP_SIGNATURE", "true"),
        ("AWS_UNSIGNED_PAYLOAD", "true"),
        ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "false"),
        ("NO_PROXY", "localhost"),
    ],
)
def test_variables_that_are_overruled(
    name: str,
    value: str,
    s3_options: dict[str, Any],
    sent: list[str],
    monkeypatch: pytest.MonkeyPatch,
    s3_client: BaseClient,
    s3_bucket: str,
) -> None:
    monkeypatch.setenv(name, value)
    assert transfer(warm(S3Storage(**s3_options)), "a.txt") == {"checksum"}
    assert sent[-1] == "a.txt"
    head = s3_client.head_object(Bucket=s3_bucket, Key="a.txt", ChecksumMode="ENABLED")
    assert head["ContentType"] == "text/plain"
    assert head["ChecksumSHA256"]


def test_boto3_sends_what_obstore_failed_to(
    s3_options: dict[str, Any], sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_obstore, "REST", 2)
    tries: list[str] = []

    def fail(store: Any, key: str, *args: Any, **kwargs: Any) -> Any:
        tries.append(key)
        raise OSError("no")

    storage = warm(S3Storage(**s3_options))
    with monkeypatch.context() as patches:
        patches.setattr(only_sender(storage.remote), "_put", fail)
        assert transfer(storage, *(f"{number}.txt" for number in range(6))) == {"checksum"}
    assert len(tries) == 2
    assert transfer(storage, "a.txt") == {"checksum"}
    assert sent[-1] == "a.txt"


class TimeLimit(Exception):
    """As the soft time limit of a queue, which interrupts a call at any place."""


def test_a_time_limit_is_no_failure(
    s3_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> Any:
        raise TimeLimit

    storage = warm(S3Storage(**s3_options))
    monkeypatch.setattr(only_sender(storage.remote), "_put", interrupt)
    storage.save("a.txt", file(CONTENT))
    [error] = storage.queue.deliver().values()
    assert isinstance(error, TimeLimit)


def test_an_answer_without_proof_is_followed_up(
    s3_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as that of a server that encrypts objects."""
    storage = warm(S3Storage(**s3_options))
    sender = only_sender(storage.remote)
    put = sender._put
    monkeypatch.setattr(
        sender, "_put", lambda *args, **kwargs: put(*args, **kwargs) | {"e_tag": '"0"'}
    )
    assert transfer(storage, "a.txt", "b.txt") == {"checksum"}
    assert sender._rest == by_obstore.REST - 1


class Signer:
    """As boto3's, whose credentials are renewed."""

    keys = iter(("first", "second"))

    def get_auth_instance(self, *signing: str) -> Any:
        assert signing == ("s3", "us-east-1", "s3v4")
        auth = type("Auth", (), {})
        auth.credentials = type("Frozen", (), {"secret_key": "secret", "token": "token"})
        auth.credentials.access_key = next(self.keys)
        return auth


def test_the_credentials_are_those_of_the_moment() -> None:
    request = SeenRequest(signer=Signer(), signing=("s3", "us-east-1", "s3v4"))
    credentials = by_obstore.Credentials(request)
    for key in ("first", "second"):
        found = credentials()
        assert found.pop("expires_at")
        assert found == {
            "access_key_id": key,
            "secret_access_key": "secret",
            "token": "token",
        }


def test_senders_end_with_their_client(s3_options: dict[str, Any]) -> None:
    remote = S3Storage(**s3_options)
    upload(remote, *("a.txt",) * 3)
    client = weakref.ref(remote.connection.meta.client)
    sender = weakref.ref(only_sender(remote))
    assert sender()._store
    del remote
    gc.collect()
    assert client() is None
    assert sender() is None


# Forks


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
def test_a_child_of_a_user_does_without(
    s3_options: dict[str, Any], sent: list[str], child: Callable[[Callable[[], object]], int]
) -> None:
    """The threads of obstore are not in the child, so a request there would never end."""
    remote = S3Storage(**s3_options)
    transfer(warm(remote), "a.txt")
    assert sent[-1] == "a.txt"

    def transfers_without() -> bool:
        uploader = upload(remote, "child/0.txt", "child/1.txt", "child/2.txt")
        return uploader.has_proof and not can_send(None) and sent[-1] == "a.txt"

    assert child(transfers_without) == 0
    assert remote.exists("child/2.txt")


def test_obstore_in_parent_and_children(
    s3_server: S3Server,
    s3_bucket: str,
    child_environment: dict[str, str],
    spawn: Callable[..., Any],
) -> None:
    """A child may use it unless its parent has; so may the parent after a fork."""
    options = s3_server.options(s3_bucket)
    del options["client_config"]
    command = [sys.executable, "-m", "tests.support.obstore_forks", json.dumps(options)]
    process = spawn(command, env=child_environment, stdout=PIPE, text=True)
    out, _none = process.communicate(timeout=60)
    assert json.loads(out) == {"early child": True, "parent": True, "late child": False}
