"""Errors by signer and by other columns, computed from a results file."""

from types import SimpleNamespace

import pytest
from rich.console import Console

from signvit_jax.evaluation.metrics import score
from signvit_jax.evaluation.results import Prediction, Results, from_json, to_json
from signvit_jax.evaluation.score_groups import (
    MAX_ROWS,
    NO_VALUE,
    columns_of,
    errors_by,
    format_table,
    index_column,
)
from signvit_jax.evaluation.scored_clips import score_clips

REFERENCES = ["one two", "three four", "five six", "seven eight", "nine ten"]
GREEDY = ["one two", "three x", "five six", "x y", "nine ten"]
SIGNERS = ["ann", "ann", "ben", "cy", ""]


def results(signers=SIGNERS, references=REFERENCES, greedy=GREEDY):
    predictions = []
    for i, (reference, text, signer) in enumerate(zip(references, greedy, signers, strict=True)):
        groups = {"signer": signer, "camera": "1"}
        predictions.append(
            Prediction(f"clip-{i}", reference, {"greedy": text}, details={"groups": groups})
        )
    scores = {"greedy": score(references, greedy)}
    return Results("test", "own", 10, scores, tuple(predictions))


def test_errors_of_a_group_are_those_of_clips_with_its_value():
    groups = errors_by(score_clips(results()), "signer", ["greedy"])
    assert [(group.value, group.clips) for group in groups] == [
        ("cy", 1),
        ("ann", 2),
        (NO_VALUE, 1),
        ("ben", 1),
    ]
    assert [group.errors["greedy"].rate for group in groups] == [1.0, 0.25, 0.0, 0.0]
    (all_clips,) = errors_by(score_clips(results()), "camera", ["greedy"])
    assert all_clips.errors["greedy"].rate == results().decoders["greedy"].wer


def test_the_columns_survive_the_results_file():
    read = from_json(to_json(results()))
    assert columns_of(read) == ["signer", "camera"]
    assert errors_by(score_clips(read), "signer", ["greedy"])[0].value == "cy"
    without_groups = Results("test", "own", 10, {}, (Prediction("a", "b", {}),))
    assert columns_of(without_groups) == []


def test_groups_that_are_not_in_the_table_are_counted():
    count = MAX_ROWS + 3
    many = results([f"s{i}" for i in range(count)], ["one"] * count, ["one"] * count)
    table = format_table("signer", errors_by(score_clips(many), "signer", ["greedy"]))
    assert table.row_count == MAX_ROWS and table.caption == "and 3 more, with fewer errors"
    console = Console(width=80, record=True)
    console.print(format_table("signer", errors_by(score_clips(results()), "signer", ["greedy"])))
    shown = console.export_text()
    assert "greedy error" in shown and "25.0%" in shown


@pytest.mark.parametrize("column", ["signer", "video_id"])
def test_clips_without_a_value_are_not_in_the_column(column):
    names = ("a", "", "b")
    entries = [
        SimpleNamespace(id=str(i), signer=name, video_id=name) for i, name in enumerate(names)
    ]
    assert index_column(entries, column) == {"0": "a", "2": "b"}
