"""Links to the documentation, for messages that say where to read on."""

DOCS = "https://django-queued-storage.readthedocs.io/en/stable/"


def see(section: str) -> str:
    """Return a sentence with the URL of a page, or of a section such as "urls#expiry"."""
    page, mark, anchor = section.partition("#")
    return f"See {DOCS}{page}.html{mark}{anchor}"
