"""JSON of unknown content: its type before anything is checked, and the errors of reading it."""

from collections.abc import Mapping
from typing import Any

ParsedJson = Mapping[str, Any]  # an unchecked object: reading its values may raise UNREADABLE_JSON

# All that reading a file and taking values from it can raise.
UNREADABLE_JSON = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
    OverflowError,
)
