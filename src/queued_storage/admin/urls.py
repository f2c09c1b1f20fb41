"""The URLs of the ledger's pages in one admin site."""

from typing import Any
from urllib.parse import urlencode

from django.contrib.admin import AdminSite
from django.urls import reverse


class Urls:
    """URLs of one admin site."""

    def __init__(self, site: AdminSite) -> None:
        self._site = site.name

    def _reverse(self, name: str, *args: Any, query: dict[str, str] | None = None) -> str:
        url = reverse(f"admin:queued_storage_queuedfile_{name}", args=args, current_app=self._site)
        return f"{url}?{urlencode(query)}" if query else url

    def changelist(self, **query: str) -> str:
        """The list of the files that these filters find."""
        return self._reverse("changelist", query=query)

    def change(self, pk: int) -> str:
        return self._reverse("change", pk)

    def dashboard(self, **query: str) -> str:
        return self._reverse("dashboard", query=query)

    def numbers(self, **query: str) -> str:
        return self._reverse("dashboard_numbers", query=query)

    def retry(self) -> str:
        return self._reverse("retry")
