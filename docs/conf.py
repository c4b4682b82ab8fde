"""Settings of the documentation site: `python -m sphinx -W -b html docs docs/_build`. Needs no network."""

import sys
from pathlib import Path

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
autodoc_typehints = "description"
autodoc_member_order = "bysource"
# Types that are not documented here: numpy's, JAX's, jaxtyping's.
nitpicky = False
