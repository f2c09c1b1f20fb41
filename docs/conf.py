"""The configuration of Sphinx. Nothing here or in the pages needs the network."""

import re
from pathlib import Path

import django
from django.conf import settings
from sphinx.application import Sphinx

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

# llms.txt, an index of the pages for language models

TOCTREE = re.compile(r"```\{toctree\}\n:caption: (.*?)\n:maxdepth: 1\n\n(.*?)```", re.S)
LINK = re.compile(r"\[([^]]*)\]\([^)]*\)")


def paragraph(page: str) -> str:
    """Return the first paragraph below the title of a page, without links."""
    text = (Path(__file__).parent / f"{page}.md").read_text()
    return LINK.sub(r"\1", " ".join(text.split("\n\n")[1].split()))


def line(page: str) -> str:
    title = (Path(__file__).parent / f"{page}.md").read_text().partition("\n")[0]
    return f"- [{title.removeprefix('# ')}]({page}.html): {paragraph(page)}\n"


def llms() -> str:
    contents = TOCTREE.findall((Path(__file__).parent / "index.md").read_text())
    sections = [
        f"## {caption}\n\n" + "".join(line(page) for page in pages.split())
        for caption, pages in contents
    ]
    return f"# {project}\n\n> {paragraph('index')}\n\n" + "\n".join(sections)


def write_llms(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html":
        (Path(app.outdir) / "llms.txt").write_text(llms())


def setup(app: Sphinx) -> None:
    app.connect("build-finished", write_llms)
