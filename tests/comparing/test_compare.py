"""`signvit compare`: significance against slow and independent code, and what is refused."""

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


def worse(share, seed=0):
    """The references with this share of words replaced."""
    rng = random.Random(seed)
    return [
        " ".join(rng.choice(WORDS) if rng.random() < share else word for word in text.split())
        for text in REFERENCES
    ]


def evaluated(texts, decoder="beam", ids=None):
    ids = ids or [f"clip{number:02d}" for number in range(len(texts))]
    return Results(
        "test",
        "toy",
        100,
        {decoder: metrics.score(REFERENCES, texts)},
        tuple(Prediction(i, r, {decoder: t}) for i, r, t in zip(ids, REFERENCES, texts)),
    )


def side(name, texts, config=None, series=None):
    return Side(name, evaluated(texts), config, series or {})


def test_scores_are_those_of_eval_and_intervals_those_of_sacrebleu():
    good, bad = worse(0.1), worse(0.5, 1)
    found = compare([side("a", good), side("b", bad)], "beam", 200)
    for number, texts in enumerate((good, bad)):
        expected = metrics.score(REFERENCES, texts)
        assert found.scores["BLEU-4"][number].score == pytest.approx(expected.bleu4)
        assert found.scores["chrF"][number].score == pytest.approx(expected.chrf)
        assert found.scores["WER"][number].score == pytest.approx(100 * expected.wer)
        assert found.scores["exact match"][number].score == pytest.approx(
            100 * expected.exact_match
        )
        # sacreBLEU's interval of a single system, by another function of sacreBLEU.
        alone = BLEU(force=True).corpus_score(texts, [REFERENCES], n_bootstrap=200)
        assert found.scores["BLEU-4"][number].interval == pytest.approx(alone._ci)
    assert [of_sides[0].p_value for of_sides in found.scores.values()] == [None] * 4
    assert all(of_sides[1].p_value < 0.01 for of_sides in found.scores.values())
    assert "bs:200" in found.signature and "tok:13a" in found.signature


def test_similar_systems_do_not_differ_significantly():
    found = compare([side("a", worse(0.3, 1)), side("b", worse(0.3, 2))], "beam", 200)
    assert all(of_sides[1].p_value > 0.05 for of_sides in found.scores.values())
    same = compare([side("a", worse(0.3)), side("b", worse(0.3))], "beam", 200)
    assert all(of_sides[1].score == of_sides[0].score for of_sides in same.scores.values())
    assert [of_sides[1].p_value for of_sides in same.scores.values()] == [1.0] * 4
    assert most_different(same, 10) == []


def test_the_bootstrap_of_rates_equals_a_slow_loop():
    rng = np.random.default_rng(0)
    counts = np.stack([rng.integers(0, 5, (2, 30)), np.full((2, 30), 4)], axis=-1).astype(float)
    found = paired_bootstrap(counts, 130)
    draws = np.random.default_rng(12345)
    rates = []
    for size in (64, 64, 2):
        for clips in draws.choice(30, size=(size, 30)):
            rates.append([sum(of_side[clips, 0]) / sum(of_side[clips, 1]) for of_side in counts])
    differences = [abs(b - a) for a, b in rates]
    real = [of_side[:, 0].sum() / of_side[:, 1].sum() for of_side in counts]
    above = [d - sum(differences) / 130 > abs(real[1] - real[0]) for d in differences]
    assert found[1].p_value == pytest.approx((sum(above) + 1) / 131)
    for number in range(2):
        ordered = sorted(row[number] for row in rates)
        assert found[number].interval == pytest.approx(50 * (ordered[-4] - ordered[3]))
        assert found[number].score == pytest.approx(100 * real[number])


def test_clips_that_differ_most_come_first():
    texts = [*REFERENCES]
    texts[7], texts[3] = "", REFERENCES[3] + " dog"
    found = compare([side("a", REFERENCES), side("b", texts)], "beam", 100)
    assert most_different(found, 5) == [7, 3]


def write_run(folder, texts, config=None, ids=None, split="test", decoder="beam"):
    (folder / "eval").mkdir(parents=True)
    results.write(evaluated(texts, decoder, ids), folder / "eval" / f"{split}.json")
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
        write_run(tmp_path / "one" / "small", worse(0.4)),
        write_run(tmp_path / "two" / "small", worse(0.1, 1), longer),
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
    found = json.loads(output.read_text())
    assert found["systems"] == ["small", "test.json"]
    assert found["config"]["training.num_epochs"][1] == 77
    wer = found["decoders"]["beam"]["scores"]["WER"]
    assert wer[0]["score"] > wer[1]["score"] and wer[1]["p_value"] < 0.05
    assert tiny_run.command(command.main, *runs, "--samples=100", f"--output={tmp_path}/c.png") == 0
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert capfd.readouterr().err.count("written to") == 2


def test_names_are_text_in_the_page(runs):
    sides = [dataclasses.replace(s, name=f"<b>${s.name}") for s in read_sides(runs, None)]
    comparison = compare(sides, "beam", 100)
    assert "<b>$" not in as_html(sides, [comparison])
    assert json.loads(as_json(sides, [comparison]))["systems"][0].startswith("<b>$")
    assert curves_png([dataclasses.replace(one, metrics={}) for one in sides]) is None
    assert [key for key, _ in config_differences(sides)] == ["training.num_epochs"]


def test_short_names_of_paths_are_unique(tmp_path):
    assert short_names([tmp_path / "a" / "x", tmp_path / "b" / "x"]) == ["a/x", "b/x"]
    assert short_names([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]
    assert short_names([tmp_path / "a", tmp_path / "a"])[1].endswith("(2)")


def test_results_of_other_clips_are_refused_with_the_number_of_shared_ones(runs, tmp_path, capfd):
    ids = [f"clip{number:02d}" for number in range(10, 70)]
    other = write_run(tmp_path / "other", worse(0.1), ids=ids)
    assert tiny_run.command(command.main, runs[0], other) == 2
    shown = capfd.readouterr().err
    assert "of which 50 are shared" in shown and "toy test" in shown
    changed = (runs[1] / "eval" / "test.json").read_text()
    document = json.loads(changed)
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
    ("arguments", "named"),
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
def test_wrong_usage_is_exit_2(runs, capfd, arguments, named):
    arguments = [argument.format(*runs) for argument in arguments]
    assert tiny_run.command(command.main, *arguments) == 2
    assert named in capfd.readouterr().err


def test_systems_without_a_common_decoder_are_refused(runs, tmp_path, capfd):
    other = write_run(tmp_path / "other", worse(0.1), decoder="ctc")
    assert tiny_run.command(command.main, runs[0], other) == 2
    assert "small has beam; other has ctc" in capfd.readouterr().err
