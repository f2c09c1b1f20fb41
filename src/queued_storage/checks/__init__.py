"""The system checks: one function per message."""

from . import databases, hosts, options, places, privacy

__all__ = ["databases", "hosts", "options", "places", "privacy"]
