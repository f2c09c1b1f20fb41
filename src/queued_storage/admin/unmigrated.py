"""Pages of the admin that say what to do if the app's migrations haven't been run."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib.admin import AdminSite
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.translation import gettext

from ..ledger import schema
from ..runtime.documentation import see

View = Callable[..., HttpResponse]


def explained(view: View, site: AdminSite) -> View:
    """Let a view explain that a table of the ledger is missing."""

    @wraps(view)  # also what says that it runs outside of a transaction
    def call(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return view(request, *args, **kwargs)
        except DatabaseError as error:
            problem = schema.explanation(error)
            if not problem:
                raise
        context = {
            **site.each_context(request),
            "title": gettext("The database is not migrated"),
            "problem": f"{problem} {see('quickstart#check-the-configuration')}",
        }
        template = "queued_storage/unmigrated.html"
        return TemplateResponse(request, template, context, status=503)

    return call
