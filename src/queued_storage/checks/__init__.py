"""The system checks: one function per message."""

from . import databases, deployments, hosts, media, options, places, privacy, secrets, steps

__all__ = [
    "databases",
    "deployments",
    "hosts",
    "media",
    "options",
    "places",
    "privacy",
    "secrets",
    "steps",
]
