"""Checks of what tells this site from a copy of its database."""

from collections.abc import Iterator

from django.core.checks import CheckMessage, Warning

from ..conf import settings
from ..runtime.documentation import see
from ..storage.composition import ComposedStorage
from .registration import check, side_problem, storages


@check(deploy=True)
def deployment_has_a_name() -> Iterator[CheckMessage]:
    if settings.deployment is not None:
        return
    if any(map(_outlives_the_process, storages())):
        yield Warning(
            "QUEUED_STORAGE['DEPLOYMENT'] is not set, so a copy of the database, such as that of a "
            "staging site, may overwrite and remove the files of this site on the remote.",
            hint=f"Give each deployment a name, for example 'production'. "
            f"{see('copies#what-to-do')}",
            id="queued_storage.W010",
        )


def _outlives_the_process(storage: ComposedStorage) -> bool:
    return not side_problem(storage, "remote") and bool(storage.remote_place.digest)
