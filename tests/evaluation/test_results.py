"""The results file: its layout, and that it reads back as it was written."""

import dataclasses
import json
import math

import pytest

from signvit_jax.evaluation import results as results_file
from signvit_jax.evaluation.metrics import score
from signvit_jax.evaluation.results import Prediction, Results, ResultsError


def some_results():
    references = ["rain in the north", "sun"]
    hypotheses = {"greedy": ["rain in north", "sun"], "ctc": ["", "sun <b>"]}
    predictions = tuple(
        Prediction(
            f"clip-{i}",
            reference,
            {name: texts[i] for name, texts in hypotheses.items()},
            score=-1.5,
            details={"gloss": "RAIN ü"},
        )
        for i, reference in enumerate(references)
    )
    return Results(
        "test",
        "synthetic_signs",
        300,
        {name: score(references, texts) for name, texts in hypotheses.items()},
        predictions,
    )


def test_layout_of_the_file():
    values = json.loads(results_file.to_json(some_results()))
    assert list(values) == [
        "split",
        "dataset",
        "checkpoint_step",
        "decoders",
        "gloss_decoders",
        "unknown",
        "phoenix_gloss_wer",
        "predictions",
    ]
    assert values["predictions"][0] == {
        "id": "clip-0",
        "reference": "rain in the north",
        "greedy": "rain in north",
        "ctc": "",
        "score": -1.5,
        "gloss": "RAIN ü",
    }
    assert values["decoders"]["greedy"]["scores"]["wer"] == 1 / 5
    assert "tok:13a" in values["decoders"]["greedy"]["signature"]


def test_a_decoder_that_spells_glosses_is_held_against_them():
    found = dataclasses.replace(some_results(), gloss_decoders=("ctc",))
    assert found.references("greedy") == ["rain in the north", "sun"]
    assert found.references("ctc") == ["RAIN ü", "RAIN ü"]
    glosses = score(found.references("ctc"), ["", ""], glosses=True)
    found = dataclasses.replace(
        found,
        decoders=found.decoders | {"ctc": glosses},
        unknown={"z": 2},
        phoenix_gloss_wer={"ctc": 0.5},
    )
    assert results_file.from_json(results_file.to_json(found)) == found


def test_a_clip_without_a_gloss_has_nothing_to_be_held_against():
    found = some_results()
    bare = dataclasses.replace(found.predictions[1], details={})
    found = dataclasses.replace(
        found, gloss_decoders=("ctc",), predictions=(found.predictions[0], bare)
    )
    assert found.references("ctc") == ["RAIN ü", None]


def test_a_file_without_units_is_read_as_what_it_was():
    values = json.loads(
        results_file.to_json(dataclasses.replace(some_results(), gloss_decoders=("ctc",)))
    )
    values["decoders"]["char"] = {
        **values["decoders"]["greedy"],
        "signature": "nrefs:1|case:mixed|tok:char",
    }
    for prediction in values["predictions"]:
        prediction["char"] = ""
    for entry in values["decoders"].values():
        del entry["unit"]
    del values["unknown"], values["phoenix_gloss_wer"]
    found = results_file.from_json(json.dumps(values))
    assert {name: scores.unit for name, scores in found.decoders.items()} == {
        "greedy": "word",
        "ctc": "gloss",
        "char": "character",
    }
    assert found.unknown == found.phoenix_gloss_wer == {}


def test_reads_back_as_written(tmp_path):
    path = tmp_path / "new folder" / "results.json"
    results_file.write(some_results(), path)
    assert results_file.read(path) == some_results()
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_numbers_that_json_has_no_name_for_become_null():
    results = some_results()
    lost = dataclasses.replace(results.predictions[0], score=-math.inf)
    text = results_file.to_json(dataclasses.replace(results, predictions=(lost,)))
    assert results_file.from_json(text).predictions[0].score is None


def test_text_that_no_encoding_holds_is_written_escaped(tmp_path):
    results = dataclasses.replace(some_results(), dataset="a \ud800 b")
    results_file.write(results, tmp_path / "results.json")
    assert results_file.read(tmp_path / "results.json") == results


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "results.json"
    results_file.write(some_results(), path)
    before = path.read_text()
    bad = dataclasses.replace(some_results().predictions[0], hypotheses={"score": "x"})
    with pytest.raises(ResultsError, match="two values under 'score'"):
        results_file.write(dataclasses.replace(some_results(), predictions=(bad,)), path)
    assert path.read_text() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not a results file"),
        ("[1]", "not a results file"),
        ("{}", "'decoders' is missing"),
        ('{"decoders": {"greedy": {"scores": {"wer": 1}, "signature": ""}}}', "missing"),
        (
            '{"decoders": {}, "predictions": [{"id": "a"}], "split": "", "dataset": "", "checkpoint_step": 1}',
            "'reference' is missing",
        ),
    ],
)
def test_other_files_are_refused_with_their_name_and_the_reason(tmp_path, text, said):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ResultsError, match=said) as error:
        results_file.read(path)
    assert "other.json" in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ResultsError, match=r"none\.json"):
        results_file.read(tmp_path / "none.json")
