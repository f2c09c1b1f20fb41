"""Whose fault the errors of Azure's libraries are."""

from typing import Any

from .fault_kinds import Case, Fault, Rule, Rules, broken_off, timed_out
from .faults_http import answer_in, by_status

CODES: dict[str, Fault | Rule] = {
    "AccountBeingCreated": Fault.AWAY,
    "InternalError": Fault.AWAY,
    "OperationTimedOut": timed_out,
    "ServerBusy": Fault.AWAY,
    "AccountIsDisabled": Fault.REFUSED,
    "AuthenticationFailed": Fault.REFUSED,  # a 403
    "AuthorizationFailure": Fault.REFUSED,  # by the firewall; by Azurite, for a wrong key
    "AuthorizationProtocolMismatch": Fault.REFUSED,
    "AuthorizationResourceTypeMismatch": Fault.REFUSED,
    "AuthorizationServiceMismatch": Fault.REFUSED,
    "AuthorizationSourceIPMismatch": Fault.REFUSED,
    "ContainerBeingDeleted": Fault.REFUSED,  # a 409
    "ContainerDisabled": Fault.REFUSED,
    "ContainerNotFound": Fault.REFUSED,
    "InsufficientAccountPermissions": Fault.REFUSED,
    "InvalidAuthenticationInfo": Fault.REFUSED,  # a 400
    "KeyBasedAuthenticationNotPermitted": Fault.REFUSED,
    "NoAuthenticationInformation": Fault.REFUSED,
    "PublicAccessNotPermitted": Fault.REFUSED,
    "BlockCountExceedsLimit": Fault.FILE,
    "BlockListTooLong": Fault.FILE,
    "MetadataTooLarge": Fault.FILE,
    "RequestBodyTooLarge": Fault.FILE,
}


def _by_code(error: Any, case: Case) -> Fault | None:
    rule = CODES.get(_code_of(error))
    if rule is None:
        return by_status(error, case)
    return rule if isinstance(rule, Fault) else rule(error, case)


def _code_of(error: Any) -> str:
    code = getattr(error, "error_code", None)
    if not code and (answer := answer_in(error)):  # of a HEAD, too
        code = answer.headers.get("x-ms-error-code")
    return str(getattr(code, "value", code))


RULES: Rules = {
    "azure.core.exceptions.ClientAuthenticationError": Fault.REFUSED,
    "azure.core.exceptions.HttpResponseError": _by_code,
    "azure.core.exceptions.IncompleteReadError": Fault.AWAY,
    "azure.core.exceptions.ServiceRequestError": Fault.AWAY,
    "azure.core.exceptions.ServiceResponseError": broken_off,
    "azure.core.exceptions.ServiceResponseTimeoutError": timed_out,
}
