"""Tests of the wording: the field's terms in American spelling, and how docstrings begin."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Name of an earlier release -> the current name.
NAMES = {
    "nothing_to_lose": "exit_immediately_on_signal",
    "steps_made_again": "steps_replayed",
    "put_together": "gather_fsdp",
    "laid_out_as": "reshard_like",
    "with_vocabulary_of": "resize_vocab_like",
    "LESSONS": "DISTILL_LOSSES",
    "flat_share": "flat_start_weight",
    "starting_from": "replace_params",
    "_beside_params": "_optimizer_items",
    "owed": "eval_pending",
    "_leave_out": "_quarantine",
    "_make_way": "_move_existing",
    "_set_aside": "_rename_aside",
    "keep_freed_memory": "tune_malloc",
    "with_new_statistics": "update_running_stats",
    "no_moments": "zero_moments",
    "key_for": "fold",
    "voices": "member_log_probs",
    "how_much": "resolve_quantization",
    "ServedDefinition": "ModifiedDefinition",
    "make_look": "make_attention_maps",
    "no_look": "no_attention_maps",
    "_ON_HOST": "SearchOptions",
    "_Lens": "_ClipWarp",
    "num_cut": "num_truncated",
    "_Thinner": "_RateLimiter",
    "Footage": "VideoInput",
}
# Phrase that readers had to read twice -> words to use.
PHRASES = {
    "made again": "recreated, repeated or replayed",
    "made anew": "recreated",
    "put together": "gathered, joined or assembled",
    "laid out as": "sharded like, or in the layout of",
    "whole number": "integer",
    "so many": "N",
    "lesson": "distillation loss",
    "filling row": "padding row",
    "filler row": "padding row",
    "back into the queue": "requeued",
    "in the queue again": "requeued",
    "while the run went on": "during the run",
    "imported weights": "converted weights",
}
BRITISH = (
    r"optimis|normalis|recognis|tokenis|quantis|initialis|serialis|behaviour|colour|neighbour"
    r"|\bcentred?\b|\bgrey|licence|catalogue|artefact|favour"
)
ALLOWED = {"test_language.py"}
# A docstring begins with a noun phrase or an imperative. A first word in -s counts as a verb
# ("Writes a file"), unless the next word can only follow a noun ("Files of a run").
NOUNS = "Batches|Clips|Corpus|Errors|Files|Frames|Parameters|Parts|Process|Programs|Scripts|Seconds"
NOUNS += "|Splits|Sums|Tokens"
AFTER_NOUNS = (
    "and|are|as|at|between|beyond|by|for|from|in|must|of|on|or|per|than|that|to|which|whose|with"
    "|without"
)
WRONG_BEGINNING = rf"Whether\b|(?!({NOUNS})\b)[A-Z][a-z]+s,? (?!({AFTER_NOUNS})\b)"
EARLIER_FLAG = "--licence"  # still accepted in place of --license


def texts(*suffixes: str) -> dict[str, str]:
    """Return path -> text of the repository's files with these suffixes."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [Path(line) for line in listed.stdout.splitlines()]
    return {
        str(path): (ROOT / path).read_text(encoding="utf-8")
        for path in paths
        if path.suffix in suffixes and path.name not in ALLOWED and "dummy_data" not in path.parts
    }


def docstrings(path: str, text: str) -> list[tuple[str, str]]:
    """Return (place, docstring) of the module and of its public classes, methods and functions."""
    tree = ast.parse(text)
    public = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and not node.name.startswith("_")
    ]
    return [
        (f"{path}:{node.body[0].lineno}", docstring)
        for node in (tree, *public)
        if (docstring := ast.get_docstring(node))
    ]


def lines_with(pattern: str, files: dict[str, str]) -> list[str]:
    """Return "path:line: text" of each line of the files that contains the pattern."""
    return [
        f"{path}:{number}: {line.strip()[:90]}"
        for path, text in files.items()
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(pattern, line) and EARLIER_FLAG not in line
    ]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_earlier_releases_are_gone(name):
    assert lines_with(rf"(?<![\w.]){name}\b", texts(".py")) == [], f"write {NAMES[name]}"


@pytest.mark.parametrize("phrase", PHRASES)
def test_private_phrases_are_not_used(phrase):
    found = lines_with(rf"(?i)\b{phrase}\b", texts(".py", ".md", ".sh"))
    assert found == [], f"write {PHRASES[phrase]}"


def test_spelling_is_american():
    assert lines_with(BRITISH, texts(".py", ".md", ".sh", ".yaml", ".toml")) == []


@pytest.mark.parametrize("folder", ["signvit_jax", "tfds_builders", "scripts"])
def test_docstrings_begin_with_a_noun_or_an_imperative(folder):
    found = [
        (place, docstring)
        for path, text in texts(".py").items()
        if Path(path).parts[0] == folder
        for place, docstring in docstrings(path, text)
    ]
    assert len(found) > 20
    assert [
        (place, docstring) for place, docstring in found if re.match(WRONG_BEGINNING, docstring)
    ] == []
