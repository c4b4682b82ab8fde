"""`signvit compare` on results that `signvit eval` wrote for a run, its export, and a file."""

import json
import shutil

import pytest

from signvit_jax.commands import eval as evaluation
from signvit_jax.commands import export
from signvit_jax.comparing import command
from tests.helpers import tiny_run

pytestmark = [pytest.mark.usefixtures("light_jax"), pytest.mark.long]
DECODERS = "beam,greedy"


def test_a_run_is_compared_with_its_export_and_a_results_file(trained, tmp_path, capfd):
    run, model, cautious = tmp_path / "run", tmp_path / "int8", tmp_path / "cautious.json"
    shutil.copytree(trained.workdir, run, ignore=shutil.ignore_patterns("eval", ".lock"))
    flags = ["--format=int8", "--report_clips=1", f"--output={model}"]
    assert tiny_run.command(export.main, f"--workdir={run}", *flags) == 0
    evaluations = {
        run / "eval" / "test.json": [f"--workdir={run}"],
        model / "eval" / "test.json": [f"--workdir={model}", f"--data_dir={trained.data_dir}"],
        # These results have no text where the confidence is low.
        cautious: [f"--workdir={run}", "--min_confidence=0.9999", f"--output={cautious}"],
    }
    for file, flags in evaluations.items():
        assert tiny_run.command(evaluation.main, f"--decode={DECODERS}", *flags) == 0
        assert file.is_file()
    capfd.readouterr()
    page, numbers = tmp_path / "page.html", tmp_path / "numbers.json"
    for output in (page, numbers):
        systems = (run, model, cautious)
        assert tiny_run.command(command.main, *systems, "--samples=100", f"--output={output}") == 0
    shown = capfd.readouterr().out
    assert "decoder beam, 6 clips" in shown and "decoder greedy, 6 clips" in shown
    document = json.loads(numbers.read_text())
    assert document["systems"] == ["run", "int8", "cautious.json"]
    assert list(document["decoders"]) == DECODERS.split(",")
    for index, file in enumerate(evaluations):
        results = json.loads(file.read_text())
        for name, evaluated in results["decoders"].items():
            compared = document["decoders"][name]["scores"]
            assert compared["WER"][index]["score"] == pytest.approx(
                100 * evaluated["scores"]["wer"]
            )
            assert compared["BLEU-4"][index]["score"] == pytest.approx(evaluated["scores"]["bleu4"])
            exact = compared["exact match"][index]["score"]
            assert exact == pytest.approx(100 * evaluated["scores"]["exact_match"])
    texts = [
        {clip["id"]: clip["beam"] for clip in json.loads(file.read_text())["predictions"]}
        for file in evaluations
    ]
    for name in DECODERS.split(","):
        for scores in document["decoders"][name]["scores"].values():
            for other in scores[1:]:
                assert (other["p_value"] == 1) == (other["score"] == scores[0]["score"])
    different = {clip for clip in texts[0] if len({system[clip] for system in texts}) > 1}
    listed = {clip["id"] for clip in document["decoders"]["beam"]["clips"]}
    assert listed and listed <= different
    html = page.read_text()
    assert html.count("<h2>Scores of ") == 2 and "curves of the runs" in html
    assert html.count("<article>") == len(listed) and html.count("no text</span>") == len(listed)
