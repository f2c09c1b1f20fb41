"""Texts of which only what is known to be harmless is kept."""

import time
from collections.abc import Callable

import pytest

from queued_storage.exceptions import VerificationError
from queued_storage.reporting.reasons import reason
from queued_storage.reporting.redaction import without_secrets

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]

# Random ones are recognized everywhere, simple ones by the name before them
RANDOM = ["S3cr3tV4lue/x+y==", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "Tr0ub4dor9Xy27Kd"]
SIMPLE = [*RANDOM, "hunter2", "ab12cd34ef56ab12cd34ef56"]

NAMED = [
    "headers={{'Authorization': 'Bearer {}', 'x': '1'}}",
    "headers={{'X-Amz-Date': b'2026', 'Authorization': b'AWS4-HMAC-SHA256 Signature={}'}}",
    "[('authorization', 'Basic {}')]",
    "['X-Api-Key', '{}']",
    "Authorization: Bearer {}",
    "-H 'Authorization: Bearer {}'",
    'Authorization: Digest username="bob", response="{}"',
    "Proxy-Authorization: Basic {}",
    "401 for Bearer {}",
    "password: {}",
    "pwd={}",
    "host=x user=y pass={}",
    "passphrase={}",
    "password='{} two words'",
    "password = {}",
    "password\t{}",
    "password is {}",
    "the secret is '{}'",
    "password -> {}",
    "'password' => '{}'",
    "password := {}",
    "PASSWORD={}",
    "pin: {}",
    "otp={}",
    "machine h login bob password {}",
    "curl --password {} https://x",
    "curl -u bob:{} https://x",
    "--api-token={}",
    "AWS_SECRET_ACCESS_KEY={}",
    "export DB_PASS='{}'",
    'secret = "{}"',
    "client-secret: '{}'",
    '{{"passwords": ["{}", "b"]}}',
    '{{"credentials": {{"id": 1, "pw": "{}"}}}}',
    '{{"access_key": "{0}", "secretKey": "{0}"}}',
    "Credentials(access_key='A', secret_key='{}', token=None)",
    '{{"private_key": "-----BEGIN PRIVATE KEY-----\\n{}\\n-----END"}}',
    "could not parse -----BEGIN OPENSSH PRIVATE KEY-----\n{}\n-----END OPENSSH PRIVATE KEY-----",
    "-----BEGIN RSA PRIVATE KEY-----\n{}",
    "X-Amz-Security-Token: {}",
    "{{b'X-Amz-Security-Token': b'{}'}}",
    '{{\\"password\\": \\"{}\\"}}',
    '{{\\\\"token\\\\": \\\\"{}\\\\"}}',
    "&quot;password&quot;: &quot;{}&quot;",
    "<SecretKey>{}</SecretKey>",
    "<ns:SessionToken>{}</ns:SessionToken>",
    "<StringToSign>{}",
    '<login password="{}"/>',
    "Cookie: sessionid={}",
    "Set-Cookie: sid={}; Path=/",
    "{{'Cookie': 'csrftoken={}'}}",
    "PHPSESSID={}",
    "apikey={}",
    "api-key: {}",
    "X-Vault: {}",
    "client_secret={}&grant_type=x",
    "grant_type=password&username=bob&password={}",
    "refresh_token: {}",
    "sv=2021&se=2026&sp=w&sig={}",
    "sas_token=sv=2021&sp=w&sig={}",
    "BlobEndpoint=https://x/;SharedAccessSignature=sv=1&sig={}",
    "DefaultEndpointsProtocol=https;AccountKey={};EndpointSuffix=x",
    "Driver={{x}};UID=u;PWD={{{}}};",
    "PUT /c/f?sv=2021&se=2026&sr=b&sp=w&sig={}",
    "GET /v1?key={}",
    "POST /token?code={} HTTP/1.1",
    "https://a.blob.core.windows.net/c/f?sv=1&sig={}",
    "https://x/#id_token={}",
    "sftp://bob:{}@h/x",
    "ftp://bob:{}@h:21/",
    "rediss://:{}@h:6379/0",
    "postgresql://u:{}@h/db?sslmode=x",
    "Authorization=Bearer {}",
    "connect to bob:{}@db.example failed",
    "Kennwort: {}",
    "mot de passe : {}",
    "sshpass -p {} ssh h",
    '<Token type="x">{}</Token>',
    "foo={}",
    "{{'foo': '{}'}}",
    "Access denied for user 'u'@'h' (using password: {})",
]
NAMELESS = [
    "invalid token eyJhbGciOi.{}.sig",
    "login with {} failed",
    "('foo', '{}')",
    "bad credential ({})",
    "sig%3D{}",
    "api_key:\n  {}",
    "got {}, expected something else",
]
HARMLESS = """\
[Errno 2] No such file or directory: '/media/uploads/2024/IMG_20240131_123456.jpg'
[Errno 28] No space left on device
[Errno 13] Permission denied: '/srv/media/ab/3f2b8c1d-1234-4abc-9def-0123456789ab.png'
An error occurred (SignatureDoesNotMatch) when calling the PutObject operation: The request \
signature we calculated does not match the signature you provided. Check your key and signing \
method.
An error occurred (403) when calling the HeadObject operation: Forbidden
An error occurred (InvalidAccessKeyId) when calling the PutObject operation: The AWS Access Key Id \
you provided does not exist in our records.
An error occurred (ExpiredToken) when calling the PutObject operation: The provided token has \
expired.
An error occurred (SlowDown) when calling the PutObject operation (reached max retries: 4): Please \
reduce your request rate.
Could not connect to the endpoint URL: "https://media.s3.eu-west-1.amazonaws.com/photos/2024/a.jpg"
Connect timeout on endpoint URL: "https://d111111abcdef8.cloudfront.net/"
Failed to upload /tmp/tmpx7Gh2aB1 to media/photos/a.txt: Access Denied
HTTPSConnectionPool(host='acme.blob.core.windows.net', port=443): Max retries exceeded with url: \
/c/f.txt (Caused by NewConnectionError('<urllib3.connection.HTTPSConnection object at \
0x7f2b8c1d9e0f>: Failed to establish a new connection: [Errno -2] Name or service not known'))
HTTPSConnectionPool(host='h', port=443): Read timed out. (read timeout=10)
[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer \
certificate (_ssl.c:1006)
Unable to locate credentials
Retry(total=0, connect=None, read=False, redirect=None, status=None)
550 Permission denied.
FATAL:  password authentication failed for user "media"
Access denied for user 'root'@'localhost' (using password: YES)
connection to server at "127.0.0.1", port 5432 failed: Connection refused
RequestId:6f1a2b3c-401e-0012-3456-789abcdef012
Time:2024-01-31T12:30:45.1234567Z
403 GET https://storage.googleapis.com/storage/v1/b/media/o/a.txt: Forbidden
'utf-8' codec can't decode byte 0xe9 in position 3: invalid continuation byte
Parameter validation failed: Invalid bucket name "my bucket"
The file 'Müller/Größe 10.txt' is not there.
function.<locals>.Remote.save() returned None; it must return a name
S3UploadFailedError: Failed to upload
<Error><Code>AccessDenied</Code><Message>No</Message><RequestId>4442587FB7D0A2F9</RequestId>
status_code: 503
relation "queued_storage_queuedfile" does not exist
crc32:1a2b3c4d was expected, content-length: 10, etag="d41d8cd98f00b204e9800998ecf8427e"
5,000 of 10,000 bytes of 'photo (1).jpg'
The remote holds photos/x7Gh2aB_kQ.jpg at /srv/far/1f/3a/1f3a5b7c9d1f3a5b7c9d
No such file: s3://media/a/b.txt
scp -p 2222 failed
<urllib3.connection.HTTPSConnection object at 0x7f2b8c1d9e0f>: Failed to establish a connection
timed out after 30.5 seconds""".splitlines()


@pytest.mark.parametrize("spelling", NAMED)
def test_values_with_a_name_are_cut(spelling: str) -> None:
    for secret in SIMPLE:
        found = without_secrets(spelling.format(secret))
        assert secret[:7] not in found
        assert "…" in found


@pytest.mark.parametrize("spelling", NAMELESS)
def test_random_words_are_cut(spelling: str) -> None:
    for secret in RANDOM:
        assert secret[:7] not in without_secrets(spelling.format(secret))


@pytest.mark.parametrize("text", HARMLESS)
def test_ordinary_messages_stay_readable(text: str) -> None:
    assert without_secrets(text) == text


def test_path_of_a_system_call_is_kept() -> None:
    error = FileNotFoundError(2, "No such file or directory", "/media/x9KfPq27ZmLw83TqVb")
    assert reason(error) == f"FileNotFoundError: {error}"


def test_messages_of_this_package_keep_their_names() -> None:
    error = VerificationError("'x9KfPq27ZmLw83TqVb' differs. https://h/k?sig=hunter2")
    assert reason(error) == "VerificationError: 'x9KfPq27ZmLw83TqVb' differs. https://h/k?…"


def test_secret_in_a_file_name_is_cut() -> None:
    assert without_secrets("/media/x9KfPq27ZmLw83TqVb.jpg") == "/media/….jpg"


PIECES = r"""
x x. k= k: ' \ <a> < -----BEGIN -----END 'k',' password=[ password=' password=\' basic --a ?a ?a=
?# a:// aB1 a/ a- eyJ. 1. a. = a&= {"a": token ). :// @ / /? sig - &quot; b'
"""
REPEATED = [*PIECES.split(), " ", "k ", "k: ", "token is ", "basic ", "-----BEGIN "]


@pytest.mark.parametrize("piece", REPEATED)
@pytest.mark.parametrize("start", ["", "k", "<a", "a://", "?", "password", "-----BEGIN", "'k'"])
def test_time_grows_with_the_length_only(piece: str, start: str) -> None:
    def seconds(length: int) -> float:
        text = start + piece * (length // len(piece))
        return min(_seconds(lambda: without_secrets(text)) for _try in range(2))

    assert seconds(4000) < 0.05 or seconds(16_000) < 8 * seconds(4000)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
