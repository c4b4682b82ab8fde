"""Suggestions in messages about misspelled names."""

import difflib
from collections.abc import Iterable, Mapping, Sequence


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a message, "; did you mean 'NEAREST'?", or "" if no name is similar."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def unknown_flag(flag: str, known: Mapping[str, Sequence[str]], otherwise: str = "") -> str:
    """Return the message about a flag that does not exist, such as `--out.batch_siz`.

    Only the part of `flag` after the last dot is compared. `known` maps short flags
    (`--batch_size`) to the complete flags that they can mean (`--config.data.batch_size`). If no
    short flag is similar, the message ends with `otherwise`.
    """
    # Compare without the dashes, which would make any two flags look similar.
    names = {short.lstrip("-"): complete for short, complete in known.items()}
    near = difflib.get_close_matches(flag.lstrip("-").split(".")[-1], names, n=1)
    hint = f"; did you mean {' or '.join(names[near[0]])}?" if near else otherwise
    return f"unknown argument {flag}{hint}"


def unexpected_argument(argument: str) -> str:
    """Return the message about an argument that is no flag and no value of a flag."""
    return f"unexpected argument {argument!r}"
