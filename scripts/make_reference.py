"""Write docs/reference/: the commands, from their own help, and every config key.

python scripts/make_reference.py            # writes the pages
python scripts/make_reference.py --check    # exit code 1 if one of them is out of date
"""

import argparse
import contextlib
import importlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from signvit_jax.commands.dispatch import COMMANDS, Command
from signvit_jax.config.files import load_config
from signvit_jax.config.key_reference import KeyDescription, describe_keys
from signvit_jax.config.presets import preset_names
from signvit_jax.sweep.command import ACTIONS as SWEEP_ACTIONS

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"
BUILDER = "video_folder"  # the builder whose help is shown; a few options of others are not
# Command -> the words to put before --help, one list for each help text to show: a command may need
# an argument, or have actions with their own help.
WORDS: dict[str, list[list[str]]] = {
    "build": [[BUILDER]],
    "sweep": [[], *([action] for action in SWEEP_ACTIONS)],
}
NOTE = "<!-- Written by scripts/make_reference.py; do not edit. -->"


def commands_page() -> str:
    """Markdown with the help of every command."""
    parts = [NOTE, "# Commands", "", "Each is `signvit NAME`, or `python -m` and its module."]
    for name, command in COMMANDS.items():
        parts += ["", f"## {name}"]
        for words in WORDS.get(name, [[]]):
            arguments = [*words, "--help"]
            shown = f"signvit {name} {' '.join(arguments)}"
            text = help_of(name, command, arguments)
            parts += ["", f"`{shown}`", "", "```text", text.strip(), "```"]
    return "\n".join(parts) + "\n"


def help_of(name: str, command: Command, arguments: list[str]) -> str:
    """What a command prints for `arguments`, which end with --help, at 100 columns."""
    printed = io.StringIO()
    sys.argv[0] = f"signvit {name}"
    os.environ["COLUMNS"] = "100"
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        getattr(importlib.import_module(command.module), command.function)(arguments)
    return printed.getvalue()


def config_page() -> str:
    """Markdown with every config key, and the presets whose value is not the default."""
    presets = {name: load_config(name) for name in preset_names()}
    parts = [
        NOTE,
        "# Config keys",
        "",
        "Set one on the command line as `--config.KEY=VALUE`. Defaults are the values of the",
        "PyTorch system that this one reimplements, with everything that it lacks switched off.",
    ]
    for group, keys in _groups(describe_keys()):
        parts += ["", f"## {group}"]
        for key in keys:
            parts += ["", f"### `{key.key}`", "", key.description, ""]
            parts += [
                f"- Type: `{key.type}`; default: {_shown(key.default)}",
                f"- Allowed: {_escaped(key.allowed)}",
            ]
            values = {name: _value(config, key.key) for name, config in presets.items()}
            by_value: dict[str, list[str]] = {}
            for name, value in values.items():
                if value != key.default:
                    by_value.setdefault(_shown(value), []).append(name)
            if by_value:
                listed = "; ".join(
                    f"{value} in {', '.join(names)}" for value, names in by_value.items()
                )
                parts.append(f"- Presets: {listed}")
    return "\n".join(parts) + "\n"


def _groups(keys: list[KeyDescription]) -> Iterator[tuple[str, list[KeyDescription]]]:
    names = dict.fromkeys(key.key.rpartition(".")[0] for key in keys)
    for name in names:
        yield name, [key for key in keys if key.key.rpartition(".")[0] == name]


def _value(config: object, key: str) -> object:
    for part in key.split("."):
        config = getattr(config, part)
    return config


def _shown(value: object) -> str:
    return f"`{value!r}`"


def _escaped(text: str) -> str:
    return text.replace("<", "\\<").replace("*", "\\*").replace("_", "\\_")


PAGES = {"commands.md": commands_page, "config.md": config_page}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    is_check = parser.parse_args().check
    stale = []
    for name, page in PAGES.items():
        path, text = FOLDER / name, page()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not is_check:
                path.write_text(text, encoding="utf-8")
    if is_check and stale:
        print(f"out of date: {', '.join(stale)}; run python scripts/make_reference.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
