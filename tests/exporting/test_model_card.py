"""The YAML head of a model card, which model hubs read."""

import types

import pytest
import yaml

from signvit_jax import __version__
from signvit_jax.config.schema import Config
from signvit_jax.exporting.model_card import CardFields, model_card
from signvit_jax.serving.export_dir import ExportManifest

AFTER = {
    "bleu4": 41.5,
    "chrf": 60.0,
    "wer": 0.125,
    "exact_match": 0.5,
    "signature": "nrefs:1",
    "chrf_signature": "nrefs:1",
}
SIZE = {"float32_bytes": 4, "export_bytes": 1, "parameters": 1}
LATENCY = {"frames": 8, "device": "cpu", "before": 1.0, "after": 1.0}


def head_of(fields=None, *, scores=True, unit="word", name="video_folder") -> dict:
    """Return the head of the card of a model that was trained on the data set `name`."""
    data = Config().data
    config = Config(data=type(data)(name=name))
    model = types.SimpleNamespace(config=config, tokenizer=types.SimpleNamespace(vocab_size=9))
    report = {"size": SIZE, "latency": LATENCY, "difference": {}}
    if scores:
        metrics = AFTER | {"unit": unit}
        report["scores"] = {
            "before": metrics,
            "after": metrics,
            "decoder": "greedy",
            "clips": 3,
            "split": "test",
        }
    card = model_card(model, ExportManifest("int8", "weights", 3), report, fields or CardFields())
    return yaml.safe_load(card.split("---\n")[1])


def test_the_head_has_the_fields_that_hubs_search():
    head = head_of(CardFields(text_language="English", license="cc-by-4.0"))
    assert head["library_name"] == "signvit_jax" and head["version"] == __version__
    assert head["license"] == "cc-by-4.0" and head["language"] == ["en"]
    assert head["pipeline_tag"] == "video-text-to-text"


def test_scores_of_the_report_are_the_model_index():
    (model,) = head_of()["model-index"]
    (result,) = model["results"]
    assert result["dataset"] == {"type": "video_folder", "name": "video_folder", "split": "test"}
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {
        "bleu": 41.5,
        "chrf": 60.0,
        "wer": 12.5,
        "exact_match": 50.0,
    }


def test_errors_by_character_are_indexed_as_cer():
    (result,) = head_of(unit="character")["model-index"][0]["results"]
    assert [metric["type"] for metric in result["metrics"]] == [
        "bleu",
        "chrf",
        "cer",
        "exact_match",
    ]


def test_without_scores_there_is_no_index():
    assert "model-index" not in head_of(scores=False)


@pytest.mark.parametrize(
    ("language", "codes"),
    [("German", ["de"]), ("de", ["de"]), ("pt-BR", ["pt-BR"]), ("Klingon", None), (None, None)],
)
def test_a_language_is_given_by_its_code(language, codes):
    assert head_of(CardFields(text_language=language)).get("language") == codes


def test_the_language_of_a_known_data_set_is_filled_in():
    assert head_of(name="phoenix14t")["language"] == ["de"]
