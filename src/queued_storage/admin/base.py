"""What the admins of all tables of the ledger have in common."""

from collections.abc import Collection
from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import BadRequest
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern

from .unmigrated import explained


class LedgerAdmin(admin.ModelAdmin):
    """The admin of a table of the ledger, whose rows are changed by actions only.

    All of its pages explain that a table is missing, and refuse what the database would.
    """

    lookups: ClassVar[dict[str, Collection[str]]] = {}  # what query strings may filter by
    show_facets = admin.ShowFacets.NEVER
    show_full_result_count = False

    @property
    def urls(self) -> list[URLPattern]:
        patterns = self.get_urls()
        for pattern in patterns:
            pattern.callback = explained(pattern.callback, self.admin_site)
        return patterns

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """Allow the filters of the page only. Any other lookup may read the whole table, and some
        values of it are errors of the database."""
        return value in self.lookups.get(lookup, ())

    def response_action(
        self, request: HttpRequest, queryset: QuerySet, *args: Any, **kwargs: Any
    ) -> HttpResponse | None:
        """Refuse keys that no row can have, which Django would pass on to the database."""
        keys = request.POST.getlist(ACTION_CHECKBOX_NAME)
        if not all(key.isascii() and key.isdecimal() and len(key) <= 18 for key in keys):
            raise BadRequest("The selection is invalid.")
        response: HttpResponse | None = super().response_action(request, queryset, *args, **kwargs)
        return response
