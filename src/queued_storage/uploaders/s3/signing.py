"""Signs requests to S3 that are alike, but for key, bytes and date, as boto3 has signed one."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

DATE, DIGEST, TOKEN = "x-amz-date", "x-amz-content-sha256", "x-amz-security-token"


class Signing:
    """What such requests have in common, of what is signed.

    The rules are those of
    https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html. boto3 works them
    out from each request anew, which takes longer than to send it.
    """

    def __init__(self, auth: Any, request: Any) -> None:
        """``request`` is an ``AWSRequest``, which ``auth`` signs; ``ValueError`` is raised if this
        would be done in another way here."""
        auth.add_auth(request)
        signature = request.headers["Authorization"]
        del request.headers["Authorization"]
        text = auth.canonical_request(request).split("\n")
        _method, path, self._query, *lines, _empty, self._names, digest = text
        self._lines = [line.partition(":")[::2] for line in lines]
        self._has_token = TOKEN in self._names.split(";")
        self._digest = None if digest == _digest(request.data) else digest
        again = self.headers(auth, path, request.data, {}, request.context["timestamp"])
        if again["authorization"] != signature:
            raise ValueError("It would be signed in another way.")

    def headers(
        self,
        auth: Any,
        path: str,
        data: bytes,
        changed: Mapping[str, str],
        when: str = "",
    ) -> dict[str, str]:
        """Those that are ``changed``, and those that sign the request.

        ``ValueError`` is raised if only one of the two has a session token.
        """
        when = when or f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        headers = {**changed, DATE: when, DIGEST: self._digest or _digest(data)}
        if bool(auth.credentials.token) != self._has_token:
            raise ValueError("Only one of the two credentials has a session token.")
        if self._has_token:
            headers[TOKEN] = auth.credentials.token
        lines = [f"{name}:{headers.get(name, value)}" for name, value in self._lines]
        text = "\n".join(["PUT", path, self._query, *lines, "", self._names, headers[DIGEST]])
        dated: Any = SimpleNamespace(context={"timestamp": when})
        signature = auth.signature(auth.string_to_sign(dated, text), dated)
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={auth.scope(dated)}, "
            f"SignedHeaders={self._names}, Signature={signature}"
        )
        return headers


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
