"""The documentation site: the Markdown pages as they are read on GitHub, and an API reference of the docstrings.

    sphinx-build -b html -W --keep-going -n -q docs runs/site

Everything that is checked is checked without network: links between pages, their anchors, links to files of the
repository, the references of docstrings. Of links to elsewhere only the form is looked at.
"""

import dataclasses
import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

import retrieval  # noqa: E402

project = "hardnet-retrieval"
release = version = retrieval.__version__
html_title = f"{project} {release}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["pictures/README.md", "decisions/README.md"]  # no pages, though one is included in a page
nitpicky = True

html_theme = "furo"
html_copy_source = False
html_use_index = html_domain_indices = False  # there is a search; a long alphabetical table is no use on a phone
html_show_sphinx = html_show_copyright = False

myst_heading_anchors = 4  # levels whose headings can be linked to, under the names that GitHub gives them

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # the attributes of a class are a list in its text

# `name` in a docstring is a link where the reference shows the object, otherwise it is set as code: arguments,
# attributes and internal names are none of the reference's objects.
default_role = "py:obj"
nitpick_ignore_regex = [
    ("py:obj", r".*"),
    ("py:(class|exc)", r"(?!(retrieval|hardnet)\.).*"),  # types of Python, numpy and torch, whose sites are elsewhere
    # what signatures and lists of attributes name and no page shows: parts of an index and of a query, type variables
    ("py:class", r"retrieval\.index\.(opened\.Index|snapshot\.Snapshot|state\.State)"),
    ("py:class", r"retrieval\.(vocabulary\.store\.Vocabulary|features\.store\.Failure)"),
    ("py:class", r"retrieval\.photographs\.(folder\.ImageSet|names\.Names)"),
    ("py:class", r"retrieval\.geometry\.putatives\.QueryWords"),
    ("py:class", r"retrieval\.search\.explanation\.(SharedWords|Placement|Expansion)"),
    ("py:class", r"retrieval\.evaluation\.measures\.Image"),
]

# Files that are not pages themselves, and the pages that include them.
INCLUDED = {
    "README.md": "index",
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "docs/decisions/README.md": "decisions",
    "hardnet/pretrained/hardnet.md": "model-card",
    "hardnet/pretrained/hardnet-small.md": "model-card-small",
    "hardnet/pretrained/affnet-open.md": "model-card-shapes",
}
RELATIVE_LINK = re.compile(r"(\]\(|^\[[^\]\n]+\]: +)(?![a-z]+:|#|/)(?=[^)\s])", re.MULTILINE)

logger = logging.getLogger(__name__)


def links_from_docs(app: Sphinx, path: Path, parent: str, content: list[str]) -> None:
    """Makes the links and pictures of an included file, which are relative to where it lies, relative to docs/."""
    folder = path.parent.as_posix()
    content[0] = RELATIVE_LINK.sub(rf"\g<1>{folder}/", content[0])


class RepositoryLinks(SphinxTransform):
    """Settles the links that leave docs/.

    One to an included file goes to the page that includes it, one to any other file to a copy of the file; a folder is
    named and not linked. What does not exist is left as it is, and MyST reports it.
    """

    default_priority = 100

    def apply(self, **kwargs: Any) -> None:
        """Walks over the links of one page as MyST leaves them."""
        for link in list(self.document.findall(addnodes.pending_xref)):
            if link.get("reftype") != "myst":
                continue
            page, target = link["refdomain"] == "doc", link["reftarget"]
            if page and target in self.env.found_docs:
                continue
            path = (DOCS / link["refdoc"]).parent / (f"{target}.md" if page else target)
            path = Path(os.path.normpath(path))
            included = INCLUDED.get(os.path.relpath(path, ROOT))
            if page and included in self.env.found_docs:
                link["reftarget"] = included
            elif page and path.is_file():
                relative = os.path.relpath(path, (DOCS / link["refdoc"]).parent)
                copied = addnodes.download_reference("", "", *link.children, reftarget=relative, refdoc=link["refdoc"])
                link.replace_self(copied)
            elif path.is_dir() and target.strip("./"):
                link.replace_self(nodes.inline("", "", *link.children))
        for link in self.document.findall(nodes.reference):
            url = urlsplit(link.get("refuri", ""))
            if url.scheme in ("http", "https") and not re.fullmatch(r"[\w-]+(\.[\w-]+)+(:\d+)?", url.netloc):
                logger.warning("malformed link: %s", link["refuri"], location=link)


BASES = {  # what signatures name, and the face that readers know
    "retrieval.index.collection.Collection": "retrieval.Collection",
    "retrieval.search.retriever.Retriever": "retrieval.Retriever",
}


def find_public(app: Sphinx, env: BuildEnvironment, node: nodes.Element, shown: nodes.TextElement) -> Any:
    """Finds `PatchDescriptor` and `Retriever.query` from wherever they are named: Sphinx looks in the same module."""
    target, python = node["reftarget"], env.domains.python_domain
    if target in BASES:
        return python.resolve_xref(env, node["refdoc"], app.builder, "class", BASES[target], node, shown)
    if node["reftype"] != "obj" or not target[:1].isupper():
        return None
    found = [name for name, one in python.objects.items() if name.endswith(f".{target}") and not one.aliased]
    if len(found) != 1:
        return None
    return python.resolve_xref(env, node["refdoc"], app.builder, "obj", found[0], node, shown)


FIELD = re.compile(r"    (\w+): (.+?) = (.+?)(?:  # (.*))?")


def describe_settings(app: Sphinx, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """Gives the settings of `retrieval.config` the comments that stand beside them."""
    if what != "class" or found.__module__ != "retrieval.config" or not dataclasses.is_dataclass(found):
        return
    above: list[str] = []
    settings = ["", "Attributes:"]
    for line in inspect.getsource(found).splitlines():
        if field := FIELD.fullmatch(line):
            key, kind, default, beside = field.groups()
            kind = f"~retrieval.config.{kind}" if kind.endswith("Config") else kind
            value = "" if default.startswith("field(") else f"``{default}``"
            comment = _escaped(" ".join([*above, beside or ""]))
            settings.append(f"    {key} ({kind}): {'; '.join(filter(None, [value, comment]))}")
        above = [*above, line.strip("# ")] if line.startswith("    # ") else []
    example = next((i for i, line in enumerate(lines) if line.startswith("Example")), len(lines))
    lines[example:example] = [*settings, ""]


def _escaped(comment: str) -> str:
    """A comment as reStructuredText that shows it as it is, but for what stands in backticks."""
    return re.sub(r"([*|\\]|_\b)", r"\\\1", comment.strip())


def hide_signature(
    app: Sphinx, what: str, name: str, found: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str, None] | None:
    """Leaves out the arguments of a class that a page names with (): its attributes are listed, with their types."""
    return ("", None) if what == "class" and signature == "()" else None


def setup(app: Sphinx) -> None:
    """Connects the above."""
    app.connect("include-read", links_from_docs)
    app.connect("autodoc-process-docstring", describe_settings, priority=400)  # before napoleon reads the headings
    app.connect("missing-reference", find_public)
    app.connect("autodoc-process-signature", hide_signature)
    app.add_transform(RepositoryLinks)
