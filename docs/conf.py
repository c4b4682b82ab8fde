"""Settings of the documentation site: `python -m sphinx -W -b html docs docs/_build`.

Needs no network.
"""

import dataclasses
import inspect
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import signvit_jax

project = "signvit_jax"
author = "The signvit_jax authors"
version = release = signvit_jax.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "signvit_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
default_role = "code"
# Types that are not documented here: numpy's, JAX's, jaxtyping's.
nitpicky = False

_BUILDER_README = re.compile(r"\(\.\./tfds_builders/(\w+)/README\.md\)")


def _link_builders(app: Any, page: str, source: list[str]) -> None:
    """Link the READMEs of the builders to the page that includes them all."""
    source[0] = _BUILDER_README.sub(r"(datasets.md#\1)", source[0])


def _link_map(app: Any, path: Path, page: str, source: list[str]) -> None:
    """Link to the page of ARCHITECTURE.md, where an included top-level file links to that file."""
    source[0] = source[0].replace("(ARCHITECTURE.md)", "(architecture.md)")


def _describe_fields(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Describe the fields of a dataclass or named tuple by the comments beside or above them."""
    if what != "class" or not (dataclasses.is_dataclass(obj) or hasattr(obj, "_fields")):
        return
    source = inspect.getsource(obj).splitlines()
    for number, line in enumerate(source):
        if field := re.match(r"    (\w+): ", line):
            comments = re.findall(r"  # (.*)$", line) or _comments_above(source[:number])
            lines.append(f":param {field[1]}: {' '.join(comments)}")


def _comments_above(lines: list[str]) -> list[str]:
    comments: list[str] = []
    while lines and lines[-1].startswith("    # "):
        comments.insert(0, lines.pop().removeprefix("    # "))
    return comments


def setup(app: Any) -> None:
    app.connect("source-read", _link_builders)
    app.connect("include-read", _link_map)
    app.connect("autodoc-process-docstring", _describe_fields)
