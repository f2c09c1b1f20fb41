"""What this package costs and carries, beside others at the same work: see ``make bench``."""

# Each is a module here with a function rows(), and runs in a process of its own.
GROUPS = ("imports", "saves", "looks", "reading", "claims", "passes", "verbs", "workers", "large")
