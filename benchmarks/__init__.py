"""Benchmarks that compare this package with others. See ``make bench``."""

# Each group is a module with a function rows() and runs in its own process.
GROUPS = (
    "imports",
    "saves",
    "limits",
    "looks",
    "reading",
    "serving",
    "claims",
    "passes",
    "rowsize",
    "verbs",
    "workers",
    "processes",
    "moves",
    "steps",
    "large",
)
# They take long, so they run only if they are chosen, or to see whether they run.
SLOW = ("migrations", "upgrades", "priorities", "sums", "manysteps", "growth")
