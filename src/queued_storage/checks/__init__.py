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

__all__ = [
    "databases",
    "deployments",
    "earlier",
    "hosts",
    "media",
    "options",
    "places",
    "privacy",
    "secrets",
    "steps",
]
