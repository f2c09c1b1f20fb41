"""The files in the admin that wait for their steps, are held, or were rejected."""

from collections.abc import Callable
from typing import Any, ClassVar, cast

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import FileResponse, Http404, HttpRequest, HttpResponse
from django.template.defaultfilters import truncatechars
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from ..health import outside_transactions
from ..ledger.aliases import storage_for
from ..ledger.database import ledger
from ..ledger.preparations import Preparation, Preparations, PreparationState, preparations
from ..operations import unpublished
from ..storage.saving import QueuedStorage
from . import preview
from .actions import is_in_limit
from .base import LedgerAdmin
from .formats import BYTES, SIZE, Number
from .log import Asked

NONE = "-"
RELEASED = ngettext_lazy(
    "%(count)s file will be published.", "%(count)s files will be published.", "count"
)
DELETED = ngettext_lazy("%(count)s file was deleted.", "%(count)s files were deleted.", "count")
RETRIED = ngettext_lazy(
    "The steps of %(count)s file will be run again.",
    "The steps of %(count)s files will be run again.",
    "count",
)
NONE_STOPPED = _("None of the selected files is held or rejected.")
NONE_RETRIED = _("None of the selected files is held or waits.")


def _permission(name: str) -> Callable[[Any, HttpRequest], bool]:
    def has_permission(self: Any, request: HttpRequest) -> bool:
        return request.user.has_perm(f"queued_storage.{name}_preparation")

    return has_permission


@admin.register(Preparation)
class PreparationAdmin(LedgerAdmin):
    list_display = ["name", "state", "why", "length", "saved_at", "storage"]
    list_filter = ["state"]
    lookups: ClassVar = {"state__exact": PreparationState.values}
    list_select_related = ["file"]
    ordering = ["saved_at"]
    search_fields = ["file__name"]
    actions = ("release", "retry", "discard")
    fields = (
        *("name", "storage", "state", "why", "preview", "length", "content_type"),
        *("step", "attempts", "due_at", "saved_at", "host"),
    )
    readonly_fields = fields

    class Media:
        css = {"all": ["queued_storage/admin.css"]}

    has_release_permission = _permission("release")
    has_discard_permission = _permission("discard")
    has_preview_permission = _permission("preview")

    def has_retry_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("queued_storage.retry_queuedfile")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return preparations().current().select_related("file").order_by(*self.ordering)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        shown = self.readonly_fields
        return [name for name in shown if name != "preview" or self.has_preview_permission(request)]

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.get_readonly_fields(request, obj)

    @admin.display(description=_("name"), ordering="file__name")
    def name(self, each: Preparation) -> str:
        return str(each.file.name)

    @admin.display(description=_("storage"), ordering="file__alias")
    def storage(self, each: Preparation) -> str:
        return str(each.file.alias)

    @admin.display(description=_("reason"))
    def why(self, each: Preparation) -> str:
        return truncatechars(each.reason or each.last_error, 200) or NONE

    @admin.display(description=_("size"))
    def length(self, each: Preparation) -> SafeString:
        exact = BYTES % {"count": Number(each.size)}
        return format_html('<span title="{}">{}</span>', exact, SIZE(each.size))

    @admin.display(description=_("preview"))
    def preview(self, each: Preparation) -> SafeString | str:
        if not preview.is_safe(each.content_type, each.size):
            return NONE
        name = "admin:queued_storage_preparation_preview"
        url = reverse(name, args=[each.pk], current_app=self.admin_site.name)
        return format_html(
            '<img class="queued-preview" src="{}?{}" alt="{}" loading="lazy">',
            url,
            each.generation,
            each.file.name,
        )

    def get_urls(self) -> list[URLPattern]:
        view = outside_transactions(self.admin_site.admin_view(self._preview))
        name = "queued_storage_preparation_preview"
        return [path("<int:pk>/preview/", view, name=name), *super().get_urls()]

    def _preview(self, request: HttpRequest, pk: int) -> HttpResponse | FileResponse:
        """Show a picture to a user who may see what is not published."""
        if not (self.has_view_permission(request) and self.has_preview_permission(request)):
            raise PermissionDenied
        each = self.get_queryset(request).filter(pk=pk).first()
        if each is None or not preview.is_safe(each.content_type, each.size):
            raise Http404
        try:
            storage = cast(QueuedStorage, storage_for(each.file.alias, each.file.task))
            return preview.picture(storage.unpublished(each.file.name), each.content_type)
        except Exception as error:  # no such file, no such storage in this process
            raise Http404 from error

    # Actions

    @admin.action(permissions=["release"], description=_("Publish selected files"))
    def release(self, request: HttpRequest, found: Preparations) -> None:
        self._run(request, found, unpublished.release, RELEASED, _("Released."))

    @admin.action(permissions=["retry"], description=_("Run the steps of selected files again"))
    def retry(self, request: HttpRequest, found: Preparations) -> None:
        self._run(request, found, unpublished.retry, RETRIED, _("Steps run again."))

    @admin.action(permissions=["discard"], description=_("Delete selected files"))
    def discard(self, request: HttpRequest, found: Preparations) -> None:
        self._run(request, found, unpublished.discard, DELETED, _("Deleted."))

    def _run(
        self,
        request: HttpRequest,
        found: Preparations,
        verb: Callable[[Preparations], int],
        done: Any,
        log: Any,
    ) -> None:
        if not is_in_limit(request, found):
            return
        asked = Asked(ledger().filter(pk__in=[each.file_id for each in found]))
        count = verb(preparations().filter(pk__in=[each.pk for each in found]))
        if count:
            asked.log(request, log)
            messages.success(request, done % {"count": Number(count)})
        else:
            messages.warning(request, NONE_RETRIED if verb is unpublished.retry else NONE_STOPPED)
