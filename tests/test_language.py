"""The field's words, in American spelling: a list of names and phrases that are not used."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Names of earlier releases, and what they are called now.
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
}
BRITISH = (
    r"optimis|normalis|recognis|tokenis|quantis|initialis|serialis|behaviour|colour|neighbour"
    r"|\bcentred?\b|\bgrey|licence|catalogue|artefact|favour"
)
ALLOWED = {"test_language.py"}
EARLIER_FLAG = "--licence"  # still taken for --license


def texts(*suffixes: str) -> dict[str, str]:
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


def uses(pattern: str, found: dict[str, str]) -> list[str]:
    return [
        f"{path}:{number}: {line.strip()[:90]}"
        for path, text in found.items()
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(pattern, line) and EARLIER_FLAG not in line
    ]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_earlier_releases_are_gone(name):
    assert uses(rf"(?<![\w.]){name}\b", texts(".py")) == [], f"write {NAMES[name]}"


@pytest.mark.parametrize("phrase", PHRASES)
def test_private_phrases_are_not_used(phrase):
    assert uses(rf"(?i)\b{phrase}\b", texts(".py", ".md", ".sh")) == [], f"write {PHRASES[phrase]}"


def test_spelling_is_american():
    assert uses(BRITISH, texts(".py", ".md", ".sh", ".yaml", ".toml")) == []
