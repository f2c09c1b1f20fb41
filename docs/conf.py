"""The configuration of Sphinx. Nothing here or in the pages needs the network."""

from queued_storage import __version__

project = "django-queued-storage"
author = "The django-queued-storage contributors"
copyright = author
version = release = __version__

extensions = ["myst_parser"]
myst_enable_extensions = ["deflist"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_heading_anchors = 3
nitpicky = True

html_theme = "furo"
html_title = f"{project} {version}"
html_static_path = ["_static"]
html_copy_source = False
