"""`signvit compare` on what `signvit eval` has written of a run, of its export, and of a file."""

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
    run, model, careful = tmp_path / "run", tmp_path / "int8", tmp_path / "careful.json"
    shutil.copytree(trained.workdir, run, ignore=shutil.ignore_patterns("eval", ".lock"))
    flags = ["--format=int8", "--report_clips=1", f"--output={model}"]
    assert tiny_run.command(export.main, f"--workdir={run}", *flags) == 0
    evaluations = {
        run / "eval" / "test.json": [f"--workdir={run}"],
        model / "eval" / "test.json": [f"--workdir={model}", f"--data_dir={trained.data_dir}"],
        # It says nothing where it is not sure.
        careful: [f"--workdir={run}", "--min_confidence=0.9999", f"--output={careful}"],
    }
    for file, flags in evaluations.items():
        assert tiny_run.command(evaluation.main, f"--decode={DECODERS}", *flags) == 0
        assert file.is_file()
    capfd.readouterr()
    page, numbers = tmp_path / "page.html", tmp_path / "numbers.json"
    for output in (page, numbers):
        systems = (run, model, careful)
        assert tiny_run.command(command.main, *systems, "--samples=100", f"--output={output}") == 0
    shown = capfd.readouterr().out
    assert "decoder beam, 6 clips" in shown and "decoder greedy, 6 clips" in shown
    found = json.loads(numbers.read_text())
    assert found["systems"] == ["run", "int8", "careful.json"]
    assert list(found["decoders"]) == DECODERS.split(",")
    for place, file in enumerate(evaluations):
        results = json.loads(file.read_text())
        for name, own in results["decoders"].items():
            compared = found["decoders"][name]["scores"]
            assert compared["WER"][place]["score"] == pytest.approx(100 * own["scores"]["wer"])
            assert compared["BLEU-4"][place]["score"] == pytest.approx(own["scores"]["bleu4"])
            exact = compared["exact match"][place]["score"]
            assert exact == pytest.approx(100 * own["scores"]["exact_match"])
    texts = [
        {one["id"]: one["beam"] for one in json.loads(file.read_text())["predictions"]}
        for file in evaluations
    ]
    for name in DECODERS.split(","):
        for scores in found["decoders"][name]["scores"].values():
            same = [other["score"] == scores[0]["score"] for other in scores[1:]]
            assert [other["p_value"] == 1 for other in scores[1:]] == same
    differ = {key for key in texts[0] if len({own[key] for own in texts}) > 1}
    listed = {clip["id"] for clip in found["decoders"]["beam"]["clips"]}
    assert listed and listed <= differ
    html = page.read_text()
    assert html.count("<h2>Scores of ") == 2 and "curves of the runs" in html
    assert html.count("<article>") == len(listed) and html.count("no text</span>") == len(listed)
