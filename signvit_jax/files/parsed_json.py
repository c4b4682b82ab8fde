"""The type of JSON that a file holds and that nothing has checked yet."""

from collections.abc import Mapping
from typing import Any

ParsedJson = Mapping[str, Any]  # an object; whoever reads it raises what a wrong value raises
