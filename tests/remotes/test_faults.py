"""Whose fault an error is: the remote's, or that of one file."""

import contextlib
import errno
import ftplib
import http.client
import json
import logging
import os
import socket
import ssl
import urllib.error
from collections.abc import Callable
from email.message import Message
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any
from unittest import mock

import botocore.exceptions
import obstore.exceptions
import pytest
import requests
import urllib3.exceptions
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError, EndpointConnectionError
from botocore.stub import Stubber
from django.core.exceptions import ImproperlyConfigured, SuspiciousFileOperation
from django.core.files.base import ContentFile
from django.core.files.storage import InMemoryStorage, Storage
from storages.backends.ftp import FTPStorage, FTPStorageException
from storages.backends.s3 import S3Storage

from queued_storage import exceptions
from queued_storage.files.streams import MeasuredFile
from queued_storage.remotes import faults, faults_http
from queued_storage.remotes.classes import dotted_path
from queued_storage.remotes.fault_kinds import SMALL
from queued_storage.remotes.faults import Fault, diagnosis_of
from queued_storage.remotes.perthread import for_threads
from queued_storage.testing import FaultyStorage
from queued_storage.uploaders import uploader_for
from queued_storage.uploaders.s3 import by_obstore
from queued_storage.uploaders.s3.by_obstore import Outcome
from queued_storage.uploaders.s3.small import SmallObject
from tests.support.fault_proxy import FaultProxy, Mode
from tests.support.services import S3Server, free_ports

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]

AWAY, REFUSED, FILE, UNCLEAR = Fault.AWAY, Fault.REFUSED, Fault.FILE, Fault.UNCLEAR
REMOTE = InMemoryStorage()
Options = dict[str, Any]


def fault_of(error: BaseException, remote: Storage = REMOTE, size: int | None = None) -> Fault:
    return diagnosis_of(error, remote, size).fault


def like(path: str, *bases: type, **attributes: Any) -> Any:
    """An error whose class has this dotted path, since its library is not installed."""
    return class_like(path, *bases, **attributes)("said the library")


def class_like(path: str, *bases: type, **attributes: Any) -> Any:
    module, _dot, name = path.rpartition(".")
    given = {"__module__": module, "__qualname__": name, **attributes}
    return type(name, bases or (Exception,), given)


def raised(*errors: BaseException) -> BaseException:
    """The last of these errors, each raised while the one before it was handled."""
    before: BaseException | None = None
    for each in errors:
        each.__context__ = before
        before = each
    return errors[-1]


# Generic


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), AWAY),
        (ConnectionResetError(), AWAY),
        (BrokenPipeError(errno.EPIPE, "broken"), AWAY),
        (ConnectionError("The remote is away."), AWAY),
        (socket.gaierror(socket.EAI_NONAME, "not known"), AWAY),
        (socket.herror(1, "unknown host"), AWAY),
        (ssl.SSLEOFError(8, "EOF occurred"), AWAY),
        (ssl.SSLCertVerificationError(1, "self-signed certificate"), REFUSED),
        (TimeoutError(errno.ETIMEDOUT, "timed out"), AWAY),
        (OSError(errno.EHOSTUNREACH, "no route"), AWAY),
        (OSError(errno.ENETUNREACH, "no network"), AWAY),
        (OSError(errno.ENOTCONN, "not mounted any more"), AWAY),
        (OSError(errno.ESTALE, "stale handle"), AWAY),
        (OSError(errno.ENOSPC, "full"), REFUSED),
        (OSError(errno.EDQUOT, "quota"), REFUSED),
        (OSError(errno.EROFS, "read-only"), REFUSED),
        (OSError(errno.ENAMETOOLONG, "too long"), FILE),
        (OSError(errno.EFBIG, "too large"), FILE),
        (OSError(errno.EIO, "input/output error"), UNCLEAR),
        (OSError("Failure"), UNCLEAR),
        (PermissionError(errno.EACCES, "not allowed"), UNCLEAR),
        (FileNotFoundError("no such object"), UNCLEAR),
        (FileExistsError(errno.EEXIST, "there"), UNCLEAR),
        (http.client.RemoteDisconnected("closed"), AWAY),
        (http.client.IncompleteRead(b""), AWAY),
        (EOFError(), UNCLEAR),
        (ValueError("a surprise"), UNCLEAR),
        (ImproperlyConfigured("no bucket"), UNCLEAR),
        (SuspiciousFileOperation("outside"), FILE),
        (KeyboardInterrupt(), UNCLEAR),
    ],
    ids=repr,
)
def test_errors_of_any_library(error: BaseException, expected: Fault) -> None:
    assert fault_of(error) is expected


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("timed out"),
        botocore.exceptions.ReadTimeoutError(endpoint_url="http://s3.example"),
        requests.ReadTimeout("timed out"),
        urllib3.exceptions.ReadTimeoutError(None, "http://s3.example", "timed out"),  # type: ignore[arg-type]
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    ("size", "expected"), [(None, UNCLEAR), (0, AWAY), (SMALL, AWAY), (SMALL + 1, UNCLEAR)]
)
def test_time_outs_by_size(error: Exception, size: int | None, expected: Fault) -> None:
    assert fault_of(error, size=size) is expected


def test_cause_decides_about_an_unknown_error() -> None:
    assert fault_of(raised(ConnectionResetError(), ValueError("a surprise"))) is AWAY
    error = RuntimeError("the storage's own")
    error.__cause__ = OSError(errno.ENOSPC, "full")
    assert fault_of(error) is REFUSED


def test_suppressed_context_says_nothing() -> None:
    error = raised(ConnectionResetError(), ValueError("a surprise"))
    error.__suppress_context__ = True
    assert fault_of(error) is UNCLEAR


def test_error_that_cannot_be_read_is_unclear(caplog: pytest.LogCaptureFixture) -> None:
    class Strange(Exception):
        @property
        def response(self) -> None:
            raise RuntimeError("It was not read.")

    assert fault_of(Strange()) is UNCLEAR
    [record] = caplog.records
    assert record.getMessage() == "Strange cannot be sorted: RuntimeError: It was not read."


def test_circle_of_causes_ends() -> None:
    one, other = ValueError(), KeyError()
    one.__cause__, other.__cause__ = other, one
    assert fault_of(one) is UNCLEAR


def test_wrong_certificate_needs_somebody() -> None:
    cause = ssl.SSLCertVerificationError(1, "certificate has expired")
    error = botocore.exceptions.SSLError(endpoint_url="https://s3.example", error=cause)
    assert fault_of(error) is AWAY  # the cause is not known
    assert fault_of(raised(cause, urllib3.exceptions.SSLError(cause), error)) is REFUSED


@pytest.mark.parametrize(
    "error",
    [
        botocore.exceptions.HTTPClientError(error="any"),
        botocore.exceptions.ConnectionClosedError(endpoint_url="http://s3.example"),
        requests.ConnectionError("Connection aborted."),
        like("azure.core.exceptions.ServiceResponseError"),
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (exceptions.LocalFileUnreadable("The disk is gone."), FILE),
        (exceptions.LeaseLost("It was deleted."), FILE),
        (OSError(errno.EIO, "input/output error"), UNCLEAR),
        (ConnectionResetError(), AWAY),
    ],
    ids=repr,
)
def test_broken_connection_by_its_cause(error: Any, cause: Exception, expected: Fault) -> None:
    """HTTP libraries hide an error of the file that they send."""
    between = urllib3.exceptions.ProtocolError("Connection aborted.", cause)
    assert fault_of(raised(cause, between, error)) is expected


# Ours

OWN_FAULTS = {
    "QueuedStorageError": UNCLEAR,
    "TransferError": UNCLEAR,  # transfer() returned False, maybe since the remote is away
    "TransferStalled": UNCLEAR,
    "TimeLimitReached": UNCLEAR,
    "FileElsewhere": FILE,
    "InvalidName": FILE,
    "InvalidQueue": FILE,
    "InvalidResult": FILE,
    "LeaseLost": FILE,
    "LocalFileChanged": FILE,
    "LocalFileMissing": FILE,
    "LocalFileUnreadable": FILE,
    "MissingLibrary": FILE,
    "NameTooLong": FILE,
    "NameUnavailable": FILE,
    "NoRoom": REFUSED,  # of a queued storage that is the remote of another one
    "NotPublished": FILE,
    "LocalStorageMissing": FILE,
    "OtherWriter": FILE,
    "RemoteChanged": FILE,
    "TransferTimeout": FILE,
    "UnknownAlias": FILE,
    "VerificationError": FILE,
}


@pytest.mark.parametrize("name", OWN_FAULTS)
def test_own_errors(name: str) -> None:
    cls: Any = getattr(exceptions, name)
    error = cls("lib", "extra") if name == "MissingLibrary" else cls("It happened.")
    assert fault_of(error) is OWN_FAULTS[name]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("LeaseLost", FILE), ("TransferError", AWAY), ("TimeLimitReached", UNCLEAR)],
)
def test_own_error_while_the_remote_is_away(name: str, expected: Fault) -> None:
    error = getattr(exceptions, name)("It happened.")
    assert fault_of(raised(ConnectionResetError(), error)) is expected


def test_no_own_error_is_forgotten() -> None:
    own = {
        name
        for name, cls in vars(exceptions).items()
        if isinstance(cls, type) and cls.__module__ == exceptions.__name__
    }
    assert own == set(OWN_FAULTS)


# HTTP


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        *((status, AWAY) for status in (408, 429, 500, 502, 503, 504, 520, 529)),
        *((status, REFUSED) for status in (401, 402, 407, 507)),
        *((status, FILE) for status in (413, 414, 431)),
        *((status, UNCLEAR) for status in (301, 400, 403, 404, 405, 409, 411, 412, 501)),
    ],
)
def test_status(status: int, expected: Fault) -> None:
    response = requests.Response()
    response.status_code = status
    assert fault_of(requests.HTTPError("said the server", response=response)) is expected
    of_any = like("any.library.Error", response=SimpleNamespace(status_code=status))
    assert fault_of(of_any) is expected
    headers = Message()
    of_urllib = urllib.error.HTTPError("http://any", status, "said the server", headers, None)
    assert fault_of(of_urllib) is expected
    of_urllib.close()


@pytest.mark.parametrize("status", [None, "503", 200, 5, lambda: 503])
def test_what_is_no_status(status: Any) -> None:
    assert fault_of(like("any.library.Error", code=status)) is UNCLEAR


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (requests.ConnectTimeout("timed out"), AWAY),
        (requests.ConnectionError("refused"), AWAY),
        (requests.exceptions.ProxyError("refused"), AWAY),
        (requests.exceptions.SSLError("EOF"), AWAY),
        (requests.exceptions.ChunkedEncodingError("broken"), AWAY),
        (requests.exceptions.InvalidURL("no URL"), UNCLEAR),
        (urllib3.exceptions.ProtocolError("broken"), AWAY),
        (urllib3.exceptions.ConnectTimeoutError("timed out"), AWAY),
        (urllib3.exceptions.SSLError("EOF"), AWAY),
        (urllib3.exceptions.LocationParseError("no URL"), UNCLEAR),
        (urllib.error.URLError("refused"), UNCLEAR),
        (raised(ConnectionRefusedError(), urllib.error.URLError("refused")), AWAY),
        (like("httpx.ConnectTimeout"), AWAY),
        (like("httpx.NetworkError"), AWAY),
        (like("httpx.RemoteProtocolError"), AWAY),
        (like("httpx.TimeoutException"), UNCLEAR),
        (like("aiohttp.client_exceptions.ServerDisconnectedError"), AWAY),
    ],
    ids=repr,
)
def test_errors_of_http_libraries(error: Exception, expected: Fault) -> None:
    assert fault_of(error) is expected


DATES = {"Date": "Mon, 30 Nov 2026 04:00:00 GMT"}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"Retry-After": "30"}, 30),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"Retry-After": "0"}, 0),
        ({"Retry-After": "-5"}, 0),
        ({"Retry-After": "99999999"}, faults_http.RETRY_AFTER_MAX),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "Mon, 30 Nov 2026 04:02:00 GMT", **DATES}, 120),
        ({"Retry-After": "Mon, 30 Nov 2026 03:00:00 GMT", **DATES}, 0),
        ({"Retry-After": "Mon, 30 Nov 2026 04:02:00 GMT"}, None),
        ({"Retry-After": "Mon, 30 Nov 2026 04:02:00 GMT", "Date": "today"}, None),
        ({"Retry-After": "Mon, 30 Nov 2026 04:02:00", **DATES}, None),  # in which time zone?
    ],
)
def test_retry_after(headers: dict[str, str], expected: float | None) -> None:
    response = requests.Response()
    response.status_code = 503
    response.headers.update(headers)
    errors = [
        requests.HTTPError("busy", response=response),
        s3_error("SlowDown", 503, headers={key.lower(): text for key, text in headers.items()}),
        like("azure.core.exceptions.HttpResponseError", response=response, status_code=503),
        like("google.api_core.exceptions.GoogleAPICallError", response=response, code=503),
        like("aiohttp.client_exceptions.ClientResponseError", status=503, headers=headers),
        raised(requests.HTTPError("busy", response=response), RuntimeError("the storage's own")),
    ]
    for error in errors:
        assert diagnosis_of(error, REMOTE) == (AWAY, expected), error


def test_no_retry_after_of_a_refusal() -> None:
    error = s3_error("InvalidAccessKeyId", 403, headers={"retry-after": "5"})
    assert diagnosis_of(error, REMOTE) == (REFUSED, None)


# S3


def s3_error(
    code: str, status: int, operation: str = "PutObject", headers: dict[str, str] | None = None
) -> ClientError:
    answer: Any = {
        "Error": {"Code": code, "Message": "said the server"},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers or {}},
    }
    return ClientError(answer, operation)


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("SlowDown", 503, AWAY),
        ("ServiceUnavailable", 503, AWAY),
        ("InternalError", 500, AWAY),
        ("InternalError", 200, AWAY),  # while the parts are put together
        ("Throttling", 400, AWAY),
        ("TooManyRequests", 429, AWAY),
        ("RequestTimeout", 400, AWAY),
        ("NoSuchBucket", 404, REFUSED),
        ("InvalidAccessKeyId", 403, REFUSED),
        ("SignatureDoesNotMatch", 403, REFUSED),
        ("ExpiredToken", 400, REFUSED),
        ("RequestTimeTooSkewed", 400, REFUSED),
        ("RequestTimeTooSkewed", 403, REFUSED),
        ("InvalidToken", 400, REFUSED),
        ("QuotaExceeded", 403, REFUSED),
        ("XMinioStorageFull", 507, REFUSED),
        ("InsufficientStorage", 507, REFUSED),
        ("AuthorizationHeaderMalformed", 400, REFUSED),
        ("PermanentRedirect", 301, REFUSED),
        ("KMS.DisabledException", 400, REFUSED),
        ("Unauthorized", 401, REFUSED),
        ("EntityTooLarge", 400, FILE),
        ("KeyTooLongError", 400, FILE),
        ("MetadataTooLarge", 400, FILE),
        ("RequestEntityTooLarge", 413, FILE),
        ("AccessDenied", 403, UNCLEAR),
        ("InvalidArgument", 400, UNCLEAR),
        ("NotImplemented", 501, UNCLEAR),
        ("NoSuchKey", 404, UNCLEAR),
        ("NoSuchUpload", 404, UNCLEAR),
        ("PreconditionFailed", 412, UNCLEAR),
        ("OperationAborted", 409, UNCLEAR),
    ],
)
def test_s3_codes(code: str, status: int, expected: Fault) -> None:
    assert fault_of(s3_error(code, status), size=10) is expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [(400, UNCLEAR), (403, UNCLEAR), (404, UNCLEAR), (405, UNCLEAR), (503, AWAY)],
)
def test_answer_to_a_head_has_no_code(status: int, expected: Fault) -> None:
    assert fault_of(s3_error(str(status), status, "HeadObject")) is expected


def test_s3_body_that_did_not_arrive_in_time() -> None:
    assert fault_of(s3_error("RequestTimeout", 400), size=SMALL + 1) is UNCLEAR


URL = {"endpoint_url": "http://s3.example"}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (botocore.exceptions.EndpointConnectionError(**URL), AWAY),
        (botocore.exceptions.ConnectTimeoutError(**URL), AWAY),
        (botocore.exceptions.ConnectionClosedError(**URL), AWAY),
        (botocore.exceptions.ProxyConnectionError(proxy_url="http://proxy.example"), AWAY),
        (botocore.exceptions.SSLError(**URL, error="EOF"), AWAY),
        (botocore.exceptions.ResponseStreamingError(error="broken"), AWAY),
        (botocore.exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2), AWAY),
        (botocore.exceptions.NoCredentialsError(), REFUSED),
        (botocore.exceptions.PartialCredentialsError(provider="env", cred_var="key"), REFUSED),
        (botocore.exceptions.CredentialRetrievalError(provider="any", error_msg="no"), REFUSED),
        (botocore.exceptions.ProfileNotFound(profile="any"), REFUSED),
        (botocore.exceptions.UnauthorizedSSOTokenError(), REFUSED),
        (botocore.exceptions.ParamValidationError(report="any"), UNCLEAR),
        (obstore.exceptions.GenericError("Generic S3 error"), UNCLEAR),
        (obstore.exceptions.PermissionDeniedError("403"), UNCLEAR),
        (obstore.exceptions.UnauthenticatedError("401"), REFUSED),
        (obstore.exceptions.InvalidPathError("no path"), FILE),
    ],
    ids=repr,
)
def test_errors_of_boto3_and_obstore(error: Exception, expected: Fault) -> None:
    assert fault_of(error) is expected


# Azure, Google


def azure_error(code: object, status: int, *, cls: str = "HttpResponseError") -> Any:
    base = class_like("azure.core.exceptions.HttpResponseError")
    response = SimpleNamespace(status_code=status, headers={})
    bases = () if cls == "HttpResponseError" else (base,)
    path = f"azure.core.exceptions.{cls}"
    return like(path, *bases, response=response, status_code=status, error_code=code)


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("ServerBusy", 503, AWAY),
        ("OperationTimedOut", 500, AWAY),
        (None, 503, AWAY),
        ("AccountIsDisabled", 403, REFUSED),
        ("AuthenticationFailed", 403, REFUSED),
        ("AuthorizationFailure", 403, REFUSED),
        ("ContainerBeingDeleted", 409, REFUSED),
        ("ContainerNotFound", 404, REFUSED),
        (SimpleNamespace(value="ContainerNotFound"), 404, REFUSED),  # an enum of the library
        ("RequestBodyTooLarge", 413, FILE),
        ("AuthorizationPermissionMismatch", 403, UNCLEAR),
        ("BlobNotFound", 404, UNCLEAR),
        (None, 404, UNCLEAR),
    ],
)
def test_azure_codes(code: object, status: int, expected: Fault) -> None:
    assert fault_of(azure_error(code, status), size=10) is expected
    assert fault_of(azure_error(code, status, cls="ResourceNotFoundError"), size=10) is expected


def test_azure_code_in_the_headers_of_a_head() -> None:
    error = azure_error(None, 404)
    error.response.headers["x-ms-error-code"] = "ContainerNotFound"
    assert fault_of(error) is REFUSED


@pytest.mark.parametrize(
    ("path", "attributes", "expected"),
    [
        ("azure.core.exceptions.ServiceRequestError", {}, AWAY),
        ("azure.core.exceptions.ServiceResponseError", {}, AWAY),
        ("azure.core.exceptions.ServiceResponseTimeoutError", {}, UNCLEAR),
        ("azure.core.exceptions.IncompleteReadError", {}, AWAY),
        ("azure.core.exceptions.ClientAuthenticationError", {}, REFUSED),
        (
            "azure.core.exceptions.ServiceResponseError",
            {"inner_exception": exceptions.LocalFileUnreadable("The disk is gone.")},
            FILE,
        ),
        ("google.auth.exceptions.TransportError", {}, AWAY),
        ("google.auth.exceptions.DefaultCredentialsError", {}, REFUSED),
        ("google.auth.exceptions.RefreshError", {"retryable": False}, REFUSED),
        ("google.auth.exceptions.RefreshError", {"retryable": True}, AWAY),
    ],
)
def test_errors_of_clouds(path: str, attributes: Options, expected: Fault) -> None:
    assert fault_of(like(path, **attributes)) is expected


@pytest.mark.parametrize(
    ("reason", "status", "expected"),
    [
        ("backendError", 503, AWAY),
        ("rateLimitExceeded", 403, AWAY),
        ("authError", 401, REFUSED),
        ("accountDisabled", 403, REFUSED),
        ("quotaExceeded", 403, REFUSED),
        ("uploadTooLarge", 400, FILE),
        ("forbidden", 403, UNCLEAR),
        ("notFound", 404, UNCLEAR),
    ],
)
def test_google_reasons(reason: str, status: int, expected: Fault) -> None:
    path = "google.api_core.exceptions.GoogleAPICallError"
    assert fault_of(like(path, code=status, errors=[{"reason": reason}])) is expected
    response = requests.Response()
    response.status_code = status
    response._content = json.dumps({"error": {"errors": [{"reason": reason}]}}).encode()
    assert fault_of(like(path, code=status, errors=[], response=response)) is expected
    of_upload = like("google.cloud.storage.exceptions.InvalidResponse", response=response)
    assert fault_of(of_upload) is expected


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": {"errors": [1]}}'])
def test_google_answer_of_another_form(body: bytes) -> None:
    response = requests.Response()
    response.status_code = 403
    response._content = body
    assert fault_of(like("google.resumable_media.common.InvalidResponse", response=response)) is (
        UNCLEAR
    )


# SFTP, FTP


def sftp() -> Any:
    return class_like("storages.backends.sftpstorage.SFTPStorage", Storage)()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("NoValidConnectionsError", "Unable to connect to port 22", AWAY),
        ("SSHException", "Error reading SSH protocol banner", AWAY),
        ("SSHException", "Server connection dropped", AWAY),
        ("SSHException", "No authentication methods available", REFUSED),
        ("SSHException", "Server 'files.example' not found in known_hosts", REFUSED),
        ("AuthenticationException", "Authentication failed.", REFUSED),
        ("BadHostKeyException", "Host key does not match", REFUSED),
    ],
)
def test_errors_of_paramiko(name: str, text: str, expected: Fault) -> None:
    error = class_like(f"paramiko.ssh_exception.{name}")(text)
    assert fault_of(error, sftp()) is expected


def test_end_of_a_connection() -> None:
    ftp = FTPStorage(location="ftp://user:secret@127.0.0.1:21/")
    for remote in (sftp(), ftp, for_threads(ftp), FaultyStorage(ftp)):
        assert fault_of(EOFError(), remote) is AWAY


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("421 Too many connections", AWAY),
        ("425 Can't open data connection", AWAY),
        ("426 Connection closed; transfer aborted", AWAY),
        ("451 Local error in processing", AWAY),
        ("450 File busy", UNCLEAR),
        ("452 Insufficient storage space", REFUSED),
        ("530 Login incorrect", REFUSED),
        ("532 Need account for storing files", REFUSED),
        ("534 Policy requires SSL", REFUSED),
        ("552 Exceeded storage allocation", REFUSED),
        ("550 No such file or directory", UNCLEAR),
        ("553 File name not allowed", UNCLEAR),
        ("500 Unknown command", UNCLEAR),
        ("what?", UNCLEAR),
    ],
)
def test_ftp_replies_inside_the_storage_error(reply: str, expected: Fault) -> None:
    cls = ftplib.error_temp if reply.startswith("4") else ftplib.error_perm
    assert fault_of(cls(reply)) is expected
    error = FTPStorageException("Error writing file a.bin")
    assert fault_of(raised(cls(reply), error)) is expected


# The hook of a storage


class Own(InMemoryStorage):
    """A storage that sorts its errors."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def queued_storage_fault(self, error: BaseException) -> object:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Wrapper(Storage):
    def __init__(self, storage: Storage) -> None:
        self.storage = storage


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("away", AWAY), ("refused", REFUSED), ("file", FILE), (None, UNCLEAR)],
)
@pytest.mark.parametrize("wrap", [lambda own: own, Wrapper, FaultyStorage])
def test_storage_sorts_its_errors(
    answer: object,
    expected: Fault,
    wrap: Callable[[Storage], Storage],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert fault_of(ValueError("a surprise"), wrap(Own(answer))) is expected
    assert not caplog.records


def test_storage_corrects_the_rules() -> None:
    assert fault_of(ConnectionResetError(), Own("file")) is FILE
    assert fault_of(ConnectionResetError(), Own(None)) is AWAY
    assert diagnosis_of(s3_error("Any", 429, headers={"retry-after": "7"}), Own("away")) == (
        AWAY,
        7,
    )


def test_storage_is_not_asked_about_our_errors() -> None:
    assert fault_of(exceptions.LocalFileMissing("It is gone."), Own("away")) is FILE


def test_outer_storage_is_asked_first() -> None:
    class Outer(Wrapper):
        def queued_storage_fault(self, error: BaseException) -> str:
            return "refused"

    assert fault_of(ValueError("a surprise"), Outer(Own("file"))) is REFUSED


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("AWAY", "Own.queued_storage_fault() returned 'AWAY'; return 'away', 'refused', 'file' or"),
        (True, "Own.queued_storage_fault() returned True; return 'away'"),
        (["away"], "Own.queued_storage_fault() returned ['away']; return"),
        (KeyError("typo"), "Own.queued_storage_fault() failed: KeyError: 'typo'"),
    ],
)
def test_mistake_of_a_hook_is_logged(
    answer: object, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert fault_of(ConnectionResetError(), Own(answer)) is AWAY
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith(said)


# The rules themselves


def test_rules_name_existing_classes() -> None:
    """A typo in a dotted path would never be noticed."""
    paths = [path for path in faults.RULES if find_spec(path.partition(".")[0])]
    assert len(paths) > 40
    found = []
    for path in paths:
        with contextlib.suppress(ImportError):  # of a namespace such as google's
            module, _dot, name = path.rpartition(".")
            found.append((path, dotted_path(getattr(import_module(module), name))))
    assert all(path == real for path, real in found)
    assert len(found) > 40


# A real S3 server


def error_of_upload(
    options: Options, data: bytes = b"data", **config: Any
) -> tuple[Any, Exception]:
    """Upload by the storage's uploader; return it and the error."""
    if config:
        options = options | {"client_config": S3Server.client_config(**config)}
    uploader = uploader_for(S3Storage(**options))
    with pytest.raises(Exception) as caught:  # noqa: PT011
        uploader.upload("a.bin", MeasuredFile(ContentFile(data), "a.bin"))
    return uploader, caught.value


def test_s3_upload_by_a_wrong_key(s3_options: Options) -> None:
    for wrong in ({"access_key": "nobody"}, {"secret_key": "wrong"}):
        uploader, error = error_of_upload(s3_options | wrong)
        assert uploader.diagnose(error, 4).fault is REFUSED


def test_s3_probe_by_a_wrong_key(s3_options: Options) -> None:
    uploader = uploader_for(S3Storage(**s3_options | {"secret_key": "wrong"}))
    with pytest.raises(ClientError) as caught:
        uploader.write_probe()
    assert uploader.diagnose(caught.value).fault is REFUSED


def test_s3_missing_bucket() -> None:
    storage = S3Storage(bucket_name="none", access_key="a", secret_key="b", region_name="any")
    uploader = uploader_for(storage)
    client = storage.connection.meta.client
    stubber = Stubber(client)
    stubber.add_client_error("put_object", "NoSuchBucket", "It is gone.", 404)
    with stubber, pytest.raises(ClientError) as caught:
        client.put_object(Bucket="none", Key="a.bin", Body=b"data")
    assert uploader.diagnose(caught.value, 4).fault is REFUSED


@pytest.mark.parametrize("size", [4, SMALL + 1])
@pytest.mark.parametrize("mode", [Mode.REFUSE, Mode.STATUS_503, Mode.STATUS_500, Mode.LOSE_ANSWER])
def test_s3_server_is_away(
    s3_proxy: FaultProxy, s3_proxy_options: Options, mode: Mode, size: int
) -> None:
    s3_proxy.mode = mode
    uploader, error = error_of_upload(s3_proxy_options, b"x" * size)
    assert uploader.diagnose(error, size).fault is AWAY, repr(error)


@pytest.mark.parametrize(("size", "expected"), [(4, AWAY), (SMALL + 1, UNCLEAR)])
def test_s3_server_hangs(
    s3_proxy: FaultProxy, s3_proxy_options: Options, size: int, expected: Fault
) -> None:
    s3_proxy.mode = Mode.HANG
    uploader, error = error_of_upload(s3_proxy_options, b"x" * size, read_timeout=0.3)
    assert uploader.diagnose(error, size).fault is expected


@pytest.mark.usefixtures("asked_soon")
def test_s3_server_goes_away_from_obstore(s3_proxy: FaultProxy, s3_proxy_options: Options) -> None:
    outcomes: list[Outcome] = []
    send = by_obstore.Sender.send

    def spy(self: by_obstore.Sender, what: SmallObject) -> Outcome:
        outcomes.append(send(self, what))
        return outcomes[-1]

    uploader = uploader_for(S3Storage(**s3_proxy_options))
    with mock.patch.object(by_obstore.Sender, "send", spy):
        for name in ("a.bin", "b.bin"):
            uploader.upload(name, MeasuredFile(ContentFile(b"data"), name))
        s3_proxy.mode = Mode.REFUSE
        with pytest.raises(EndpointConnectionError) as caught:  # by boto3, which knows more
            uploader.upload("c.bin", MeasuredFile(ContentFile(b"data"), "c.bin"))
    assert outcomes == [Outcome.PROVED, Outcome.FAILED]
    assert uploader.diagnose(caught.value, 4).fault is AWAY


def test_s3_upload_is_reset(s3_proxy: FaultProxy, s3_proxy_options: Options) -> None:
    s3_proxy.mode = Mode.RESET_MID_BODY
    uploader, error = error_of_upload(s3_proxy_options, b"x" * SMALL)
    assert uploader.diagnose(error, SMALL).fault is AWAY


def test_s3_host_without_a_name(s3_options: Options) -> None:
    options = s3_options | {"endpoint_url": "http://s3.invalid:8333"}
    uploader, error = error_of_upload(options)
    assert uploader.diagnose(error, 4).fault is AWAY


def test_s3_port_without_a_server(s3_options: Options) -> None:
    [port] = free_ports(1)
    uploader, error = error_of_upload(s3_options | {"endpoint_url": f"http://127.0.0.1:{port}"})
    assert uploader.diagnose(error, 4).fault is AWAY


def test_s3_without_credentials(s3_options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    uploader, error = error_of_upload(s3_options | {"access_key": None, "secret_key": None})
    assert uploader.diagnose(error, 4).fault is REFUSED, repr(error)


class Broken(ContentFile[bytes]):
    """A local file that cannot be read to its end."""

    def read(self, *args: Any) -> bytes:
        if self.tell() >= SMALL:
            raise exceptions.LocalFileUnreadable("The disk is gone.")
        return super().read(*args)


@pytest.mark.parametrize("threads", [True, False])
def test_s3_upload_of_an_unreadable_file(s3_options: Options, threads: bool) -> None:
    options = s3_options | {"transfer_config": TransferConfig(use_threads=threads)}
    uploader = uploader_for(S3Storage(**options))
    size = 20 * SMALL
    with pytest.raises(Exception) as caught:  # noqa: PT011
        uploader.upload("a.bin", MeasuredFile(Broken(b"x" * size), "a.bin"))
    assert uploader.diagnose(caught.value, size).fault is FILE, repr(caught.value)
