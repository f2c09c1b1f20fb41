"""The system checks: one function per message."""

from . import databases, deployments, earlier, hosts, options, places, privacy, steps

__all__ = ["databases", "deployments", "earlier", "hosts", "options", "places", "privacy", "steps"]
