"""The system checks: one function per message."""

from . import (
    databases,
    deployments,
    earlier,
    hosts,
    media,
    options,
    places,
    privacy,
    secrets,
    steps,
)
from .databases import ledger_is_migrated
from .registration import ALWAYS, DEPLOY

__all__ = [
    "ALWAYS",
    "DEPLOY",
    "databases",
    "deployments",
    "earlier",
    "hosts",
    "ledger_is_migrated",
    "media",
    "options",
    "places",
    "privacy",
    "secrets",
    "steps",
]
