"""From videos to text: build, train, eval and translate, each with the files of the one before."""

import csv
import json

import pytest
from PIL import Image

from signvit_jax.commands import eval as eval_command
from signvit_jax.commands import translate
from signvit_jax.evaluation.metrics import score
from tests.helpers import tiny_run

pytestmark = pytest.mark.usefixtures("light_jax")


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory):
    """(the JSON of an evaluation with all decoders, the path of its file)."""
    output = tmp_path_factory.mktemp("eval") / "deep" / "test.json"
    flags = [f"--workdir={trained.workdir}", f"--output={output}"]
    with tiny_run.light_jax(trained.cache):
        assert tiny_run.command(eval_command.main, *flags) == 0
    return json.loads(output.read_text(encoding="utf-8")), output


def test_training_writes_all_files_of_a_run(trained):
    for name in ("config.json", "tokenizer.json", "run.log", "metrics.csv", "metrics.png"):
        assert (trained.workdir / name).stat().st_size > 0, name
    assert list(trained.workdir.glob("events.*"))
    assert json.loads((trained.workdir / "config.json").read_text())["training"]["batch_size"] == 4
    with Image.open(trained.workdir / "metrics.png") as image:
        assert image.format == "PNG"
    steps = tiny_run.STEPS_PER_EPOCH * tiny_run.EPOCHS
    assert (trained.workdir / "checkpoints" / str(steps)).is_dir()
    samples = sorted(trained.workdir.glob("samples/epoch_*.txt"))
    assert len(samples) == tiny_run.EPOCHS
    assert "reference: Ann" in samples[-1].read_text() and "greedy:" in samples[-1].read_text()


def test_metrics_have_every_step_once_and_the_loss_falls(trained):
    with (trained.workdir / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(
        range(1, tiny_run.STEPS_PER_EPOCH * tiny_run.EPOCHS + 1)
    )
    training = [float(row["train/loss"]) for row in rows]
    assert sum(training[-3:]) < 0.9 * sum(training[:3])
    validation = [float(row["validation/loss"]) for row in rows if row["validation/loss"]]
    assert len(validation) == tiny_run.EPOCHS and validation[-1] < validation[0]


def test_evaluation_has_every_clip_once_with_its_unchanged_reference(trained, evaluated):
    found, _ = evaluated
    with (trained.source / "clips.csv").open(newline="") as file:
        texts = {row["uid"]: row["text"] for row in csv.DictReader(file) if row["split"] == "test"}
    # 6 is not a multiple of the batch size 4, so the last batch has padding rows.
    assert len(found["predictions"]) == len(texts) == 6
    assert {entry["id"]: entry["reference"] for entry in found["predictions"]} == texts
    # References keep their capital letters and punctuation marks.
    assert any(text != text.lower() for text in texts.values())
    assert any(text[-1] in ".!" for text in texts.values())
    assert all({"greedy", "beam", "ctc"} <= entry.keys() for entry in found["predictions"])


def test_scores_equal_those_of_the_written_predictions(evaluated):
    found, _ = evaluated
    references = [entry["reference"] for entry in found["predictions"]]
    assert set(found["decoders"]) == {"greedy", "beam", "ctc"}
    for name, entry in found["decoders"].items():
        hypotheses = [prediction[name] for prediction in found["predictions"]]
        expected = score(references, hypotheses, lowercase=True)
        assert entry["scores"] == pytest.approx(expected.as_dict())
        assert "case:lc" in entry["signature"]


def test_the_report_next_to_the_predictions_shows_clips(evaluated):
    _, output = evaluated
    page = output.with_suffix(".html").read_text(encoding="utf-8")
    assert "clip16" in page and "data:image/" in page


def test_translation_and_evaluation_give_the_same_text(trained, evaluated, capfd):
    found, _ = evaluated
    clips = [trained.video(number) for number in (16, 21)]
    assert tiny_run.command(translate.main, *clips, f"--workdir={trained.workdir}") == 0
    printed = {}
    for line in capfd.readouterr().out.splitlines():
        path, _, text = line.partition("\t")
        printed[path] = text.strip()
    texts = {entry["id"]: entry["greedy"] for entry in found["predictions"]}
    assert printed == {str(clip): texts[clip.stem] for clip in clips}
