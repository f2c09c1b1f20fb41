"""The system checks: one function per message."""

from . import databases, deployments, hosts, options, places, privacy, steps

__all__ = ["databases", "deployments", "hosts", "options", "places", "privacy", "steps"]
