"""`signvit compare`: significance tests against independent code, its outputs and errors."""

import dataclasses
import json
import random

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU

from signvit_jax.comparing import command
from signvit_jax.comparing.curves import curves_png
from signvit_jax.comparing.report import as_html, as_json, config_differences
from signvit_jax.comparing.sides import Side, read_sides, short_names
from signvit_jax.comparing.significance import compare, most_different, paired_bootstrap
from signvit_jax.config import schema
from signvit_jax.evaluation import metrics, results
from signvit_jax.evaluation.results import Prediction, Results
from tests.helpers import tiny_run

WORDS = ["the", "man", "woman", "sees", "likes", "a", "dog", "house", "tomorrow", "big", "small"]
REFERENCES = [
    " ".join(random.Random(number).choices(WORDS, k=3 + number % 5)) for number in range(60)
]


def with_errors(share, seed=0):
    """Return the references with a share of their words (0 to 1) replaced."""
    rng = random.Random(seed)
    return [
        " ".join(rng.choice(WORDS) if rng.random() < share else word for word in text.split())
        for text in REFERENCES
    ]


def results_of(texts, decoder="beam", ids=None):
    """Return the results of an evaluation whose hypotheses are `texts`."""
    ids = ids or [f"clip{number:02d}" for number in range(len(texts))]
    predictions = tuple(
        Prediction(clip, reference, {decoder: text})
        for clip, reference, text in zip(ids, REFERENCES, texts)
    )
    return Results("test", "toy", 100, {decoder: metrics.score(REFERENCES, texts)}, predictions)


def side(name, texts):
    return Side(name, results_of(texts), None, {})


def test_scores_are_those_of_eval_and_intervals_those_of_sacrebleu():
    good, bad = with_errors(0.1), with_errors(0.5, 1)
    comparison = compare([side("a", good), side("b", bad)], "beam", 200)
    for number, texts in enumerate((good, bad)):
        expected = metrics.score(REFERENCES, texts)
        assert comparison.scores["BLEU-4"][number].score == pytest.approx(expected.bleu4)
        assert comparison.scores["chrF"][number].score == pytest.approx(expected.chrf)
        assert comparison.scores["WER"][number].score == pytest.approx(100 * expected.wer)
        assert comparison.scores["exact match"][number].score == pytest.approx(
            100 * expected.exact_match
        )
        # sacreBLEU computes the interval of a single system by another function.
        alone = BLEU(force=True).corpus_score(texts, [REFERENCES], n_bootstrap=200)
        assert comparison.scores["BLEU-4"][number].interval == pytest.approx(alone._ci)
    assert [scores[0].p_value for scores in comparison.scores.values()] == [None] * 4
    assert all(scores[1].p_value < 0.01 for scores in comparison.scores.values())
    assert "bs:200" in comparison.signature and "tok:13a" in comparison.signature


def test_similar_systems_do_not_differ_significantly():
    comparison = compare(
        [side("a", with_errors(0.3, 1)), side("b", with_errors(0.3, 2))], "beam", 200
    )
    assert all(scores[1].p_value > 0.05 for scores in comparison.scores.values())
    same = compare([side("a", with_errors(0.3)), side("b", with_errors(0.3))], "beam", 200)
    assert all(scores[1].score == scores[0].score for scores in same.scores.values())
    assert [scores[1].p_value for scores in same.scores.values()] == [1.0] * 4
    assert most_different(same, 10) == []


def test_the_bootstrap_of_rates_equals_a_slow_loop():
    rng = np.random.default_rng(0)
    # Of 2 systems and 30 clips: errors, and words of the reference.
    counts = np.stack([rng.integers(0, 5, (2, 30)), np.full((2, 30), 4)], axis=-1).astype(float)
    scores = paired_bootstrap(counts, 130)
    draws = np.random.default_rng(12345)
    sampled_rates = []  # of both systems, for each resample
    for size in (64, 64, 2):  # the resamples are drawn in blocks
        for clips in draws.choice(30, size=(size, 30)):
            rates = [sum(system[clips, 0]) / sum(system[clips, 1]) for system in counts]
            sampled_rates.append(rates)
    differences = [abs(second - first) for first, second in sampled_rates]
    mean_difference = sum(differences) / 130
    rates = [system[:, 0].sum() / system[:, 1].sum() for system in counts]
    is_larger = [value - mean_difference > abs(rates[1] - rates[0]) for value in differences]
    assert scores[1].p_value == pytest.approx((sum(is_larger) + 1) / 131)
    for number in range(2):
        ordered = sorted(row[number] for row in sampled_rates)
        assert scores[number].interval == pytest.approx(50 * (ordered[-4] - ordered[3]))
        assert scores[number].score == pytest.approx(100 * rates[number])


def test_clips_that_differ_most_come_first():
    texts = [*REFERENCES]
    texts[7], texts[3] = "", REFERENCES[3] + " dog"
    comparison = compare([side("a", REFERENCES), side("b", texts)], "beam", 100)
    assert most_different(comparison, 5) == [7, 3]


def write_run(folder, texts, config=None, ids=None, split="test", decoder="beam"):
    (folder / "eval").mkdir(parents=True)
    results.write(results_of(texts, decoder, ids), folder / "eval" / f"{split}.json")
    (folder / "config.json").write_text(schema.to_json(config or schema.Config()))
    (folder / "metrics.csv").write_text(
        "step,train/loss,validation/wer\n10,2.5,0.9\n20,1.5,0.6\n30,nan,\n"
    )
    return folder


@pytest.fixture
def runs(tmp_path):
    config = schema.Config()
    longer = dataclasses.replace(
        config, training=dataclasses.replace(config.training, num_epochs=77)
    )
    return [
        write_run(tmp_path / "one" / "small", with_errors(0.4)),
        write_run(tmp_path / "two" / "small", with_errors(0.1, 1), longer),
    ]


def test_the_command_prints_scores_configs_and_clips_and_writes_a_page(runs, tmp_path, capfd):
    page = tmp_path / "new" / "compare.html"
    flags = ["--samples=100", f"--output={page}"]
    assert tiny_run.command(command.main, *runs, *flags) == 0
    shown = capfd.readouterr().out
    assert "one/small" in shown and "two/small" in shown and "±" in shown and "*)" in shown
    assert "training.num_epochs" in shown and "77" in shown
    assert "clips that differ most" in shown and "100 resamples" in shown
    text = page.read_text()
    assert "<script" not in text and "curves of the runs" in text and "num_epochs" in text
    assert text.count("<article>") > 5


def test_a_results_file_is_compared_with_a_run_and_json_has_the_numbers(runs, tmp_path, capfd):
    output = tmp_path / "compare.json"
    systems = [runs[0], runs[1] / "eval" / "test.json"]
    assert tiny_run.command(command.main, *systems, "--samples=100", f"--output={output}") == 0
    document = json.loads(output.read_text())
    assert document["systems"] == ["small", "test.json"]
    assert document["config"]["training.num_epochs"][1] == 77
    wer = document["decoders"]["beam"]["scores"]["WER"]
    assert wer[0]["score"] > wer[1]["score"] and wer[1]["p_value"] < 0.05
    assert tiny_run.command(command.main, *runs, "--samples=100", f"--output={tmp_path}/c.png") == 0
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert capfd.readouterr().err.count("written to") == 2


def test_names_are_text_in_the_page(runs):
    sides = [dataclasses.replace(s, name=f"<b>${s.name}") for s in read_sides(runs, None)]
    comparison = compare(sides, "beam", 100)
    assert "<b>$" not in as_html(sides, [comparison])
    assert json.loads(as_json(sides, [comparison]))["systems"][0].startswith("<b>$")
    assert curves_png([dataclasses.replace(side, metrics={}) for side in sides]) is None
    assert [key for key, _ in config_differences(sides)] == ["training.num_epochs"]


def test_short_names_of_paths_are_unique(tmp_path):
    assert short_names([tmp_path / "a" / "x", tmp_path / "b" / "x"]) == ["a/x", "b/x"]
    assert short_names([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]
    assert short_names([tmp_path / "a", tmp_path / "a"])[1].endswith("(2)")


def test_results_of_other_clips_are_refused_with_the_number_of_shared_ones(runs, tmp_path, capfd):
    ids = [f"clip{number:02d}" for number in range(10, 70)]
    other = write_run(tmp_path / "other", with_errors(0.1), ids=ids)
    assert tiny_run.command(command.main, runs[0], other) == 2
    shown = capfd.readouterr().err
    assert "of which 50 are shared" in shown and "toy test" in shown
    document = json.loads((runs[1] / "eval" / "test.json").read_text())
    document["predictions"][4]["reference"] = "something else"
    (tmp_path / "changed.json").write_text(json.dumps(document))
    assert tiny_run.command(command.main, runs[0], tmp_path / "changed.json") == 2
    assert "different references for 1 of 60 clips" in capfd.readouterr().err


def test_clips_in_another_order_are_the_same_clips(runs, tmp_path):
    document = json.loads((runs[1] / "eval" / "test.json").read_text())
    document["predictions"].reverse()
    (tmp_path / "reversed.json").write_text(json.dumps(document))
    first, second = read_sides([runs[1], tmp_path / "reversed.json"], None)
    assert first.results.predictions == second.results.predictions


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{0}"], "give at least two"),
        (["{0}", "/nowhere"], "/nowhere does not exist"),
        (["{0}", "{1}", "--split=dev"], "signvit eval --workdir="),
        (["{0}", "{1}", "--decode=greedy"], "decoder 'greedy' is not in all results"),
        (["{0}", "{1}", "--output=a.pdf"], "ends in '.pdf'"),
        (["{0}", "{1}", "--samples=10"], "allowed: an integer >= 100"),
        (["{0}", "{1}/config.json"], "not a results file"),
    ],
)
def test_wrong_usage_is_exit_2(runs, capfd, arguments, message):
    arguments = [argument.format(*runs) for argument in arguments]
    assert tiny_run.command(command.main, *arguments) == 2
    assert message in capfd.readouterr().err


def test_systems_without_a_common_decoder_are_refused(runs, tmp_path, capfd):
    other = write_run(tmp_path / "other", with_errors(0.1), decoder="ctc")
    assert tiny_run.command(command.main, runs[0], other) == 2
    assert "small has beam; other has ctc" in capfd.readouterr().err
