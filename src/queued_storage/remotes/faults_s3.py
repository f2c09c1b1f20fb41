"""Whose fault the errors of boto3 and obstore are."""

from typing import Any

from .fault_kinds import Case, Fault, Rules, broken_off, timed_out
from .faults_http import by_status

# The server's codes are looked at before its status: an expired token is a 400.
CODES = dict.fromkeys(
    (
        *("BandwidthLimitExceeded", "Busy", "EC2ThrottledException", "InternalError"),
        *("PriorRequestNotComplete", "RequestLimitExceeded", "RequestThrottled"),
        *("RequestThrottledException", "ServiceUnavailable", "SlowDown", "Throttling"),
        *("ThrottledException", "ThrottlingException", "TooManyRequestsException"),
    ),
    Fault.AWAY,
)
CODES |= dict.fromkeys(
    (
        *("AccountProblem", "AllAccessDisabled", "AuthorizationHeaderMalformed", "ExpiredToken"),
        *("InvalidAccessKeyId", "InvalidBucketName", "InvalidPayer", "InvalidSecurity"),
        *("InvalidToken", "KMS.DisabledException", "KMS.KMSInvalidStateException"),
        *("KMS.NotFoundException", "NoSuchBucket", "NotSignedUp", "PermanentRedirect"),
        *("QuotaExceeded", "RequestExpired", "RequestTimeTooSkewed", "SignatureDoesNotMatch"),
        *("TokenRefreshRequired", "UserSuspended", "XMinioAdminBucketQuotaExceeded"),
        "XMinioStorageFull",
    ),
    Fault.REFUSED,
)
CODES |= dict.fromkeys(
    (
        *("EntityTooLarge", "KeyTooLongError", "MaxMessageLengthExceeded", "MetadataTooLarge"),
        *("XMinioInvalidObjectName", "XMinioObjectExistsAsDirectory", "XMinioParentIsObject"),
    ),
    Fault.FILE,
)


def by_code(error: Any, case: Case) -> Fault | None:
    """Sort a refusal by its code, or by its status: the answer to a HEAD has nothing else."""
    code = error.response.get("Error", {}).get("Code", "")
    if code == "RequestTimeout":  # the bytes did not arrive in time
        return timed_out(error, case)
    return CODES.get(code) or by_status(error, case)


RULES: Rules = {
    "botocore.exceptions.ClientError": by_code,
    "botocore.exceptions.ConnectionClosedError": broken_off,
    "botocore.exceptions.ConnectionError": Fault.AWAY,
    "botocore.exceptions.HTTPClientError": broken_off,
    "botocore.exceptions.IncompleteReadError": Fault.AWAY,
    "botocore.exceptions.MetadataRetrievalError": Fault.AWAY,
    "botocore.exceptions.ReadTimeoutError": timed_out,
    "botocore.exceptions.ResponseStreamingError": Fault.AWAY,
    "botocore.exceptions.CredentialRetrievalError": Fault.REFUSED,
    "botocore.exceptions.LoginError": Fault.REFUSED,
    "botocore.exceptions.NoAuthTokenError": Fault.REFUSED,
    "botocore.exceptions.NoCredentialsError": Fault.REFUSED,
    "botocore.exceptions.PartialCredentialsError": Fault.REFUSED,
    "botocore.exceptions.ProfileNotFound": Fault.REFUSED,
    "botocore.exceptions.SSOError": Fault.REFUSED,
    "botocore.exceptions.TokenRetrievalError": Fault.REFUSED,
    "obstore.exceptions.InvalidPathError": Fault.FILE,
    "obstore.exceptions.UnauthenticatedError": Fault.REFUSED,
    "obstore.exceptions.BaseError": Fault.UNCLEAR,
}
