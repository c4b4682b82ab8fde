"""Suggestions in messages about misspelled names."""

import difflib
from collections.abc import Iterable, Mapping, Sequence


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a message, `; did you mean 'NEAREST'?`, or '' where no name is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def unknown_flag(flag: str, known: Mapping[str, Sequence[str]], otherwise: str = "") -> str:
    """Return the message about a flag that does not exist, such as `--out.batch_siz`.

    Only what follows the last dot is compared. `known` maps such short flags (`--batch_size`) to
    the complete flags that they can stand for (`--config.data.batch_size`). `otherwise` ends the
    message if none is near.
    """
    # Without the dashes: they would make any two flags look similar.
    names = {short.lstrip("-"): complete for short, complete in known.items()}
    near = difflib.get_close_matches(flag.lstrip("-").split(".")[-1], names, n=1)
    hint = f"; did you mean {' or '.join(names[near[0]])}?" if near else otherwise
    return f"unknown argument {flag}{hint}"


def unexpected_argument(argument: str) -> str:
    """Return the message about a word that no flag of the command takes."""
    return f"unexpected argument {argument!r}"
