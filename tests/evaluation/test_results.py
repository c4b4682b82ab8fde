"""The results file: its format, reading and writing, and errors."""

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
    scores = {name: score(references, texts) for name, texts in hypotheses.items()}
    return Results("test", "synthetic_signs", 300, scores, predictions)


def test_the_file_has_the_documented_format():
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


def test_references_of_a_gloss_decoder_are_the_glosses():
    results = dataclasses.replace(some_results(), gloss_decoders=("ctc",))
    assert results.references("greedy") == ["rain in the north", "sun"]
    assert results.references("ctc") == ["RAIN ü", "RAIN ü"]


def test_gloss_scores_are_read_back_as_written():
    results = dataclasses.replace(some_results(), gloss_decoders=("ctc",))
    glosses = score(results.references("ctc"), ["", ""], glosses=True)
    results = dataclasses.replace(
        results,
        decoders=results.decoders | {"ctc": glosses},
        unknown={"z": 2},
        phoenix_gloss_wer={"ctc": 0.5},
    )
    assert results_file.from_json(results_file.to_json(results)) == results


def test_a_clip_without_a_gloss_has_no_reference():
    results = some_results()
    without_gloss = dataclasses.replace(results.predictions[1], details={})
    results = dataclasses.replace(
        results, gloss_decoders=("ctc",), predictions=(results.predictions[0], without_gloss)
    )
    assert results.references("ctc") == ["RAIN ü", None]


def test_a_file_without_units_gets_them_from_its_signatures():
    results = dataclasses.replace(some_results(), gloss_decoders=("ctc",))
    values = json.loads(results_file.to_json(results))
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
    units = {name: scores.unit for name, scores in found.decoders.items()}
    assert units == {"greedy": "word", "ctc": "gloss", "char": "character"}
    assert found.unknown == found.phoenix_gloss_wer == {}


def test_a_results_file_is_read_back_as_written(tmp_path):
    path = tmp_path / "new folder" / "results.json"
    results_file.write(some_results(), path)
    assert results_file.read(path) == some_results()
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_infinity_becomes_null():
    results = some_results()
    infinite = dataclasses.replace(results.predictions[0], score=-math.inf)
    text = results_file.to_json(dataclasses.replace(results, predictions=(infinite,)))
    assert results_file.from_json(text).predictions[0].score is None


def test_text_that_utf8_cannot_encode_is_escaped(tmp_path):
    results = dataclasses.replace(some_results(), dataset="a \ud800 b")
    results_file.write(results, tmp_path / "results.json")
    assert results_file.read(tmp_path / "results.json") == results


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "results.json"
    results_file.write(some_results(), path)
    before = path.read_text()
    # The name of this decoder is also a key of every prediction.
    ambiguous = dataclasses.replace(some_results().predictions[0], hypotheses={"score": "x"})
    with pytest.raises(ResultsError, match="two values under 'score'"):
        results_file.write(dataclasses.replace(some_results(), predictions=(ambiguous,)), path)
    assert path.read_text() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not a results file"),
        ("[1]", "not a results file"),
        ("{}", "'decoders' is missing"),
        ('{"decoders": {"greedy": {"scores": {"wer": 1}, "signature": ""}}}', "missing"),
        (
            '{"decoders": {}, "predictions": [{"id": "a"}], '
            '"split": "", "dataset": "", "checkpoint_step": 1}',
            "'reference' is missing",
        ),
    ],
)
def test_other_files_are_refused_with_path_and_reason(tmp_path, text, reason):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ResultsError, match=reason) as error:
        results_file.read(path)
    assert "other.json" in str(error.value)


def test_a_missing_file_is_reported_with_its_path(tmp_path):
    with pytest.raises(ResultsError, match=r"none\.json"):
        results_file.read(tmp_path / "none.json")
