"""Tests of the evaluation of a split: each clip once, independent of the batches, with scores."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest

from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import from_mapping
from signvit_jax.data.dataset import open_dataset
from signvit_jax.data.pipeline import make_batches
from signvit_jax.decoding.confidence import Calibration, word_key
from signvit_jax.decoding.lexicon import Entry, Lexicon
from signvit_jax.evaluation import evaluate as evaluation
from signvit_jax.evaluation.diagnostics import make_attention_maps
from signvit_jax.evaluation.evaluate import clip_images, evaluate
from signvit_jax.evaluation.metrics import MetricError
from signvit_jax.inference.predictor import Hypothesis
from signvit_jax.inference.trained_model import load_trained
from signvit_jax.text.tokenizer import learn
from tests.helpers import tiny_run


@pytest.fixture(scope="module")
def model(trained):
    with tiny_run.light_jax(trained.cache):
        yield load_trained(trained.workdir, "last")


@pytest.fixture(scope="module")
def split(trained):
    return open_dataset(trained.data_dir, "video_folder").split("test")


@pytest.fixture(scope="module")
def predictor(model):
    return model.predictor(["greedy", "ctc"])


def run(split, predictor, model, config=None, **options):
    """Return the results of `evaluate`; `config` replaces the model's config."""
    return evaluate(
        split,
        predictor,
        model.params,
        config or model.config,
        model.tokenizer,
        checkpoint_step=model.step,
        **options,
    )


def test_each_clip_is_evaluated_once_in_the_order_of_the_split(split, predictor, model):
    batch_sizes = []
    found = run(split, predictor, model, on_batch=batch_sizes.append)
    assert [prediction.id for prediction in found.predictions] == [
        entry.id for entry in split.index
    ]
    assert [prediction.reference for prediction in found.predictions] == [
        entry.text for entry in split.index
    ]
    assert batch_sizes == [4, 2]  # without the padding rows of the last batch
    assert found.decoders["greedy"].examples == len(split)
    assert (found.split, found.dataset) == ("test", "video_folder")
    assert found.checkpoint_step == model.step


def with_batches_of_one(model):
    """Return the model's config with a batch size of 1 in place of 4."""
    inference = dataclasses.replace(model.config.inference, batch_size=1)
    return dataclasses.replace(model.config, inference=inference)


def test_the_batch_size_changes_no_text(split, predictor, model):
    by_four = run(split, predictor, model)
    by_one = run(split, predictor, model, with_batches_of_one(model))
    assert [p.hypotheses for p in by_four.predictions] == [p.hypotheses for p in by_one.predictions]
    np.testing.assert_allclose(
        [p.score for p in by_four.predictions], [p.score for p in by_one.predictions], atol=1e-4
    )


def test_a_sampled_text_does_not_depend_on_the_batch(split, model):
    sampling = model.predictor(["sample"], temperature=3.0)
    by_four = run(split, sampling, model)
    by_one = run(split, sampling, model, with_batches_of_one(model))
    assert [p.hypotheses for p in by_four.predictions] == [p.hypotheses for p in by_one.predictions]
    assert len({p.hypotheses["sample"] for p in by_one.predictions}) > 2  # clips differ


def _first_batch(split, model):
    batches = make_batches(
        split, model.tokenizer, model.config, batch_size=4, training=False, text_length=8
    )
    return next(iter(batches))


def test_a_gloss_weight_for_a_model_that_reads_no_glosses_is_refused(model):
    with pytest.raises(ConfigError, match=r"gloss_weight is 0\.7, but the decoder .* allowed: 0"):
        model.predictor(["greedy"], gloss_weight=0.7)
    model.predictor(["greedy"], gloss_weight=0.0)
    model.predictor(["greedy"], gloss_weight=model.config.inference.gloss_weight)


def test_the_lexicon_reorders_the_hypotheses_of_beam_search(split, model):
    batch = _first_batch(split, model)
    plain = model.predictor(["beam"], beam_size=4, n_best=4)(model.params, batch)["beam"]
    # This lexicon has every word of the best texts, but no gloss that could support a word. So each
    # of these words costs a penalty.
    words = {word_key(word.text) for hypothesis in plain for word in hypothesis.words}
    lexicon = Lexicon(glosses={}, words={word: Entry(0.0, {}, 0.0) for word in words})
    calibration = Calibration(
        model.step, dataset="", split="", clips=0, decoders={}, lexicon=lexicon
    )
    with_lexicon = dataclasses.replace(model, calibration=calibration)

    without_weight = with_lexicon.predictor(["beam"], beam_size=4, n_best=4, lexicon_weight=0.0)
    assert without_weight(model.params, batch)["beam"] == plain

    weighted = with_lexicon.predictor(["beam"], beam_size=4, n_best=2, lexicon_weight=3.0)
    ranked = weighted(model.params, batch)
    assert ranked.keys() == {"beam"}
    for before, after in zip(plain, ranked["beam"], strict=True):
        scores = {}
        for hypothesis in (before, *before.alternatives):
            unsupported = sum(word_key(word.text) in words for word in hypothesis.words)
            penalty = unsupported * math.log(0.01) * 3.0  # the lowest probability, lexicon_weight
            length = 1 + len(hypothesis.probabilities)  # as the length penalty counts: with BOS
            scores[hypothesis.tokens] = hypothesis.score + penalty / length
        best = sorted(scores, key=lambda tokens: -scores[tokens])[:2]
        found = [after, *after.alternatives]
        assert [hypothesis.tokens for hypothesis in found] == best
        for hypothesis in found:
            assert hypothesis.score == pytest.approx(scores[hypothesis.tokens], abs=1e-4)
    # The lexicon has changed the best text of a clip.
    assert any(before.tokens != after.tokens for before, after in zip(plain, ranked["beam"]))


def test_confidences_and_scores_are_in_their_ranges(split, predictor, model):
    for prediction in run(split, predictor, model).predictions:
        assert 0.0 < prediction.details["confidence"] <= 1.0
        assert prediction.score <= 0.0


def test_a_stopped_evaluation_gives_no_scores(split, predictor, model):
    batch_sizes = []

    def after_one_batch() -> bool:
        return len(batch_sizes) > 0

    found = run(split, predictor, model, on_batch=batch_sizes.append, should_stop=after_one_batch)
    assert found is None and batch_sizes == [4]


def test_images_show_the_frames_that_the_model_read(split, predictor, model):
    buckets, longest = model.config.frame_buckets, model.config.model.decoder.max_len
    attention_maps = make_attention_maps(
        model.definition.bind, model.params, model.tokenizer, model.ctc_tokenizer, buckets, longest
    )
    results = run(split, predictor, model)
    shown = clip_images(results, split, model.config, model.tokenizer, attention_maps, count=2)
    assert shown and shown.keys() <= {entry.id for entry in split.index}
    assert {found.frames.shape for found in shown.values()} == {
        (tiny_run.FRAMES, tiny_run.SIZE, tiny_run.SIZE, 3)
    }
    texts = {prediction.id: prediction.hypotheses for prediction in results.predictions}
    for clip, found in shown.items():
        alignment, attention = found.heat_maps  # of CTC; of the decoder
        spelled = model.ctc_tokenizer.decode(
            model.ctc_tokenizer.tokens.index(label) for label in alignment.tokens[:-1]
        )
        assert spelled == texts[clip]["ctc"] and alignment.tokens[-1] == "blank"
        assert alignment.values.shape[0] == len(alignment.tokens)
        assert alignment.values.min() >= 0 and alignment.values.max() <= 1
        assert attention.values.shape == (len(attention.tokens), tiny_run.FRAMES)


def test_no_attention_is_drawn_for_the_text_of_ctc(split, model):
    buckets, longest = model.config.frame_buckets, model.config.model.decoder.max_len
    attention_maps = make_attention_maps(
        model.definition.bind, model.params, model.tokenizer, model.ctc_tokenizer, buckets, longest
    )
    results = run(split, model.predictor(["ctc", "greedy"]), model)
    shown = clip_images(results, split, model.config, model.tokenizer, attention_maps, count=1)
    titles = {
        tuple(heat_map.title.partition(":")[0] for heat_map in found.heat_maps)
        for found in shown.values()
        if found.heat_maps  # only the worst and the best clips have heat maps
    }
    assert titles == {("CTC",)}


CLIPS = [  # (text, gloss)
    ("rain in the north today", "RAIN NORTH TODAY"),
    ("the sun shines", ""),
    ("zebra", "loc-NORD REGEN REGEN"),
    ("snow", ""),
]


@pytest.fixture
def evaluate_texts(monkeypatch):
    """A function that evaluates given texts: decoder name -> text of each clip.

    The score of each text is minus the length of the decoder's name, so that tests see which
    decoder a score is from. CTC spells glosses. "zebra" has letters that the tokenizer does not
    know.
    """
    monkeypatch.setattr(evaluation, "make_batches", lambda *_, **__: ())

    def evaluate_texts(texts_of_decoders, clips=CLIPS, evaluation_config=None, **options):
        tokenizer = learn(
            ["rain in the north today the sun shines", "snow"], from_mapping({}).tokenizer
        )
        index = [
            SimpleNamespace(id=f"c{i}", text=text, gloss=gloss)
            for i, (text, gloss) in enumerate(clips)
        ]
        hypotheses = {
            i: {
                name: Hypothesis(texts[i], tokens=(), score=-float(len(name)), confidence=0.5)
                for name, texts in texts_of_decoders.items()
            }
            for i in range(len(clips))
        }
        predictor = SimpleNamespace(
            tokenizers=dict.fromkeys(texts_of_decoders),
            fitted_on={},
            mesh=SimpleNamespace(size=1),
            predict_split=lambda *_: hypotheses,
        )
        config = from_mapping(
            {"model": {"ctc": {"target": "gloss"}}, "evaluation": evaluation_config or {}}
        )
        return evaluate(
            SimpleNamespace(name="test", index=index),
            predictor,
            None,
            config,
            tokenizer,
            checkpoint_step=1,
            **options,
        )

    return evaluate_texts


def test_glosses_are_scored_on_the_clips_that_have_them(evaluate_texts):
    found = evaluate_texts(
        {
            "greedy": [text for text, _ in CLIPS],
            "ctc": ["RAIN NORTH TODAY", "SUN SHINE", "NORD REGEN", "SNOW FALL NOW"],
        },
        phoenix=True,
    )
    assert found.decoders["ctc"].unit == "gloss" and found.decoders["ctc"].examples == 2
    # The errors are loc-NORD and one REGEN; by PHOENIX's rules neither is an error.
    assert found.decoders["ctc"].wer == 2 / 6  # two errors in six glosses
    assert found.phoenix_gloss_wer == {"ctc": 0.0}
    assert found.decoders["greedy"].wer == 0 and found.decoders["greedy"].examples == 4
    assert found.unknown == {"z": 1, "b": 1}
    # PHOENIX's word error rate is computed only on request.
    assert evaluate_texts({"ctc": ["RAIN", "", "", ""]}).phoenix_gloss_wer == {}


def test_a_split_without_glosses_has_no_gloss_score(evaluate_texts, caplog):
    without_glosses = [(text, "") for text, _ in CLIPS]
    found = evaluate_texts({"ctc": ["SUN"] * 4, "greedy": ["snow"] * 4}, without_glosses)
    assert list(found.decoders) == ["greedy"] and "no clip of 'test' has a gloss" in caplog.text
    assert found.predictions[0].details["ctc"] == "SUN"
    assert found.predictions[0].score == -len("greedy")
    with pytest.raises(MetricError, match="no clip of 'test' has a gloss, and ctc spells glosses"):
        evaluate_texts({"ctc": ["SUN"] * 4}, without_glosses)


def test_score_and_confidence_are_those_of_the_first_decoder(evaluate_texts):
    texts = [text for text, _ in CLIPS]
    for order in (("greedy", "beam"), ("beam", "greedy")):
        found = evaluate_texts(dict.fromkeys(order, texts))
        assert {prediction.score for prediction in found.predictions} == {-float(len(order[0]))}


def test_a_given_tokenization_replaces_that_of_the_config(evaluate_texts):
    texts = {"greedy": ["今天很好"] * 4}
    chinese = [("今天很好", "")] * 4
    zh = {"tokenize": "zh"}
    by_default = evaluate_texts(texts, chinese)
    by_config = evaluate_texts(texts, chinese, zh)
    by_argument = evaluate_texts(texts, chinese, zh, tokenize="none")
    assert "tok:char" in by_default.decoders["greedy"].signature
    assert "tok:zh" in by_config.decoders["greedy"].signature
    assert "tok:none" in by_argument.decoders["greedy"].signature
