"""The configuration of Sphinx. Nothing here or in the pages needs the network."""

import django
from django.conf import settings

from queued_storage import __version__

project = "django-queued-storage"
author = "The django-queued-storage contributors"
copyright = author
version = release = __version__

# The API reference imports the modules, which need the models.
settings.configure(
    INSTALLED_APPS=["django.contrib.contenttypes", "queued_storage"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_enable_extensions = ["deflist"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_heading_anchors = 3
nitpicky = True
# Signatures and docstrings name classes of Django and of the standard library.
nitpick_ignore_regex = [("py:.*", ".*")]
autodoc_default_options = {"show-inheritance": True}
autodoc_typehints_format = "short"

html_theme = "furo"
html_title = f"{project} {version}"
html_static_path = ["_static"]
html_copy_source = False
