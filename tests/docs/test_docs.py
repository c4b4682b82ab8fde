"""Tests that the documentation builds, and that the commands, keys, files and tests in it exist."""

import argparse
import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from signvit_jax.commands.dispatch import COMMANDS
from signvit_jax.config.key_reference import describe_keys
from signvit_jax.config.presets import preset_names, resolve_config
from signvit_jax.errors.base import SignVitError
from signvit_jax.runtime.exit_codes import UsageError

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GENERATED = DOCS / "reference"
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *DOCS.glob("**/*.md"), *ROOT.glob("tfds_builders/*/README.md")]
    if "_build" not in path.parts
)
# Module of a command -> its name; docs and messages also call commands by module.
COMMAND_OF_MODULE = {command.module: name for name, command in COMMANDS.items()} | {
    f"signvit_jax.{path.stem}": {"inspect_config": "inspect"}.get(path.stem, path.stem)
    for path in (ROOT / "signvit_jax").glob("[!_]*.py")
}
PLACEHOLDER = re.compile(r"^(\.\.\.|…|\[.*\]|[A-Z_]+|NAME)$")


def page_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code_blocks(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (language, code) of every fenced block; indented blocks have the language ''."""
    text = path.read_text(encoding="utf-8")
    fence = re.compile(r"^( *)(`{3,})([^\n`]*)\n(.*?)^\1\2 *$", re.M | re.S)
    for _, _, language, code in fence.findall(text):
        yield language.strip(), code
    yield "", "\n".join(re.findall(r"^(?: {4}|\t)(.*)$", fence.sub("", text), re.M))


def shell_commands(path: Path) -> list[str]:
    """Return the calls of our commands, with continued lines joined and without prompts."""
    found = []
    for language, code in code_blocks(path):
        if language in ("", "bash", "sh", "console"):
            for line in re.sub(r"\\\n\s*", " ", code).splitlines():
                # A prompt or other shell commands may come before the call in the same line.
                for part in re.split(r"&& |^\$ ", line.strip()):
                    if re.match(r"(signvit|python -m (signvit_jax|tfds_builders))\b", part):
                        found.append(part)
    return found


class _Parsed(Exception):
    """Raised with the arguments that a command's parser understood and those for the config."""

    def __init__(self, namespace: argparse.Namespace, rest: list[str]):
        super().__init__(namespace, rest)
        self.namespace, self.rest = namespace, rest


def find_fault(command: str, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Return the reason why a command line is wrong, or None."""
    words = shlex.split(command, comments=True)
    if words[0] == "python":
        if words[2] not in COMMAND_OF_MODULE:
            return f"there is no module {words[2]}"
        name, arguments = COMMAND_OF_MODULE[words[2]], words[3:]
    else:
        name = words[1] if len(words) > 1 else "--help"
        arguments = words[2:]
    if name in ("--help", "--version", "COMMAND", "NAME"):
        return None
    if name not in COMMANDS:
        return f"there is no command {name}"
    if "--help" in arguments or (name in ("build", "check") and PLACEHOLDER.match(arguments[0])):
        return None
    # A line with "..." is incomplete, so required flags may be missing.
    is_complete = "..." not in arguments
    arguments = [argument for argument in arguments if argument != "..."]
    original = argparse.ArgumentParser.parse_known_args

    def parse(self, args=None, namespace=None):
        if not is_complete:
            for action in self._actions:
                action.required = False
        raise _Parsed(*original(self, args, namespace))

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_known_args", parse)
        patch.setattr(sys, "argv", [f"signvit {name}"])
        try:
            getattr(importlib.import_module(COMMANDS[name].module), COMMANDS[name].function)(
                arguments
            )
        except _Parsed as parsed:
            return _config_fault(parsed)
        except (SystemExit, UsageError):
            return "the parser refuses it"
    return "it was not parsed"


def _config_fault(parsed: _Parsed) -> str | None:
    """Return the reason why the config flags are wrong, or None."""
    keys = {key.key for key in describe_keys()}
    for argument in parsed.rest:
        flag, has_value, _ = argument.partition("=")
        if not flag.startswith("--config.") or flag.removeprefix("--config.") not in keys:
            return f"there is no flag or key {flag}"
        if not has_value:
            return f"{flag} has no value"
    config = getattr(parsed.namespace, "config", None)
    if config and config != "...":
        try:
            resolve_config(config)
        except SignVitError as error:
            return str(error)
    return None


def links(path: Path) -> list[str]:
    """Return the targets of Markdown links outside of code."""
    text = re.sub(
        r"^( *)(`{3,}).*?^\1\2 *$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S
    )
    text = re.sub(r"`[^`\n]*`", "", text)
    return re.findall(r"\]\(([^)\s]+)\)", text)


def anchors(path: Path) -> set[str]:
    """Return GitHub's anchors of the headings of a page."""
    text = re.sub(
        r"^( *)(`{3,}).*?^\1\2 *$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S
    )
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.M)
    }


def test_the_site_builds_without_warnings(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    built = subprocess.run(
        [
            *(sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"),
            *("-d", str(tmp_path / "doctrees"), str(DOCS), str(tmp_path / "html")),
        ],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "html" / "index.html").exists()


def test_generated_pages_are_current():
    script = ROOT / "scripts" / "make_reference.py"
    checked = subprocess.run(
        [sys.executable, str(script), "--check"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_python_blocks_compile(path):
    for language, code in code_blocks(path):
        if language == "python":
            compile(code, str(path), "exec")


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_commands_parse(path, monkeypatch):
    faults = {command: find_fault(command, monkeypatch) for command in shell_commands(path)}
    assert {command: fault for command, fault in faults.items() if fault} == {}


def test_commands_are_found_in_indented_and_fenced_blocks():
    readme, scale = shell_commands(ROOT / "README.md"), shell_commands(DOCS / "scale.md")
    assert len(readme) >= 6 and any("--profile=5" in command for command in scale)
    joined = shell_commands(DOCS / "pretrained.md")[0]
    assert joined.startswith("signvit train") and "freeze_epochs=2" in joined


def test_wrong_commands_are_detected(monkeypatch):
    right = "signvit train --config=small --workdir=w --config.training.batch_size=8  # comment"
    assert find_fault(right, monkeypatch) is None
    for wrong in [
        right.replace("batch_size", "batchsize"),
        right.replace("--workdir", "--work_dir"),
        right.replace("=small", "=smal"),
        right.replace("train", "trian", 1),
        right.replace("signvit train", "python -m signvit_jax.trian"),
        "signvit translate --workdir=w",
        "signvit build video_folder --data_dir=data --csv=a.csv --video=b",
    ]:
        assert find_fault(wrong, monkeypatch), wrong


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_links_lead_to_files_and_headings(path):
    missing = []
    for link in links(path):
        if re.match(r"(https?|mailto):", link):
            continue
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            missing.append(link)
    assert missing == []


def test_config_keys_in_the_text_exist():
    keys = {key.key for key in describe_keys()}
    groups = sorted({key.partition(".")[0] for key in keys})
    name = re.compile(rf"`(?:config\.)?((?:{'|'.join(groups)})\.[a-z_0-9.]*[a-z_0-9])[=`]")
    known = keys | {key.rpartition(".")[0] for key in keys}
    unknown = {
        (page_name(path), key)
        for path in PAGES
        if path.parent != GENERATED and path.name != "faults.md"
        for key in name.findall(path.read_text(encoding="utf-8"))
        if key not in known
        and not key.endswith((".py", ".json", ".md"))
        and not (ROOT / "signvit_jax" / f"{key.replace('.', '/')}.py").is_file()  # a module
    }
    assert unknown == set()


def test_every_preset_is_in_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in preset_names() if f"`{name}`" not in text] == []


def string_template(node: ast.AST) -> str | None:
    """Return a string of the code with NUL in place of formatted values; None for other nodes."""
    if isinstance(node, ast.JoinedStr):
        parts = [
            str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values
        ]
        return "".join(parts)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%[sd]", "\0", node.value)
    return None


def message_templates() -> list[str]:
    """Return the templates of all strings of the code, each on one line."""
    templates = []
    for path in [
        *(ROOT / "signvit_jax").glob("**/*.py"),
        *(ROOT / "tfds_builders").glob("**/*.py"),
    ]:
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        templates += [template for node in nodes if (template := string_template(node)) is not None]
    return [re.sub(r"\s+", " ", template) for template in templates]


def test_troubleshooting_quotes_messages_of_the_code():
    templates = message_templates()
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^### `(.*?)`", page, re.M)
    assert len(messages) >= 15
    unknown = []
    for message in messages:
        parts = [re.escape(part.strip()) for part in message.split("…")]
        if not any(re.search(".*".join(parts), template) for template in templates):
            unknown.append(message)
    assert unknown == []


def collect_tests() -> dict[str, set[str]]:
    """Return the names of the tests in every file below tests/."""
    return {
        str(path.relative_to(ROOT)): {
            node.name
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        }
        for path in (ROOT / "tests").glob("**/test_*.py")
    }


@pytest.mark.parametrize("page", ["faults.md", "reliability.md"])
def test_named_tests_exist(page):
    """Names are `tests/path.py::test_x`, `::test_x` (same file), or `test_x` (any file)."""
    files = collect_tests()
    anywhere = set().union(*files.values()) | {Path(file).stem for file in files}
    text = (DOCS / page).read_text(encoding="utf-8")
    missing = []
    file = ""
    for path, separator, name in re.findall(r"(tests/[\w/]+\.py)?(::)?(\btest_\w+)?", text):
        file = path or file
        if path and not (ROOT / path).is_file():
            missing.append(path)
        if name and name not in (files.get(file, set()) if separator else anywhere):
            missing.append(f"{file}::{name}" if separator else name)
    assert missing == [], "\n".join(missing)


def test_the_table_of_where_things_are_names_existing_files():
    """The table is in ARCHITECTURE.md, below "Where is ...?"."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    section = text.partition("## Where is ...?")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (?!Where|---)(.+?)\? \| `([\w/]+\.py)` \|$", section, re.M)
    assert len(rows) == 20
    assert [file for _, file in rows if not (ROOT / file).is_file()] == []
