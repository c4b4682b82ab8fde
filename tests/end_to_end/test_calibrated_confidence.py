"""Calibrated confidences: fitted by eval and training, used by translation, streams and exports."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from signvit_jax import load_translator
from signvit_jax.commands import eval as eval_command
from signvit_jax.commands import export, train
from signvit_jax.data.dataset import open_dataset
from signvit_jax.decoding.confidence import CalibrationError, from_json, statistics, to_json
from signvit_jax.decoding.lexicon import learn_lexicon
from signvit_jax.evaluation.confidence_reliability import BINS
from signvit_jax.evaluation.results import read
from signvit_jax.inference.loading import load_model
from signvit_jax.inference.windowing import VideoInput
from signvit_jax.training.confidence_calibration import RunCalibration
from tests.helpers import tiny_run
from tests.helpers.video_frames import read_video

pytestmark = pytest.mark.usefixtures("light_jax")
FLAGS = ("--split=test", "--decode=greedy,beam,ctc")


@pytest.fixture(scope="module")
def calibrated(trained, tmp_path_factory):
    """A workdir with a calibration of every decoder, and with the results of that eval."""
    workdir = tmp_path_factory.mktemp("calibrated") / "run"
    shutil.copytree(trained.workdir, workdir)
    flags = [f"--workdir={workdir}", "--calibrate", *FLAGS]
    with tiny_run.light_jax(trained.cache):
        assert tiny_run.command(eval_command.main, *flags) == 0
    return workdir


def calibrate_greedy(workdir):
    flags = ("--calibrate", "--split=test", "--decode=greedy")
    assert tiny_run.command(eval_command.main, f"--workdir={workdir}", *flags) == 0


def calibration_of(workdir):
    return from_json((workdir / "calibration.json").read_text())


def test_eval_calibrates_the_requested_decoders(trained, calibrated):
    found = calibration_of(calibrated)
    assert list(found.decoders) == ["greedy", "beam", "ctc"]
    assert (found.dataset, found.split, found.clips) == (
        "video_folder",
        "validation",
        tiny_run.CLIPS["validation"],
    )
    assert found.step == load_model(trained.workdir).step
    assert "a guess" in found.fitted_on("greedy")  # four clips


def test_the_results_have_the_reliability_of_confidences(calibrated):
    output = calibrated / "eval" / "test.json"
    entry = json.loads(output.read_text())["decoders"]["greedy"]
    scores, confidence = entry["scores"], entry["confidence"]
    assert {"wer", "bleu4", "exact_match"} <= scores.keys()
    assert confidence["fitted_on"] == calibration_of(calibrated).fitted_on("greedy")
    sentence = confidence["sentence"]
    assert sentence["examples"] == tiny_run.CLIPS["test"]
    assert sentence["right"] == round(scores["exact_match"] * sentence["examples"])
    assert 0 <= sentence["ece_interval"][0] <= sentence["ece"] <= 1
    # There are fewer examples than BINS, so each example has its own bin.
    assert sentence["examples"] < BINS
    assert len(sentence["bins"]) == sentence["examples"]
    assert confidence["word"]["examples"] > 0
    page = output.with_suffix(".html").read_text()
    assert "<h2>Confidence</h2>" in page
    assert f"{sentence['ece']:.3f}" in page
    assert read(output).confidence["greedy"].sentence.ece == sentence["ece"]


@pytest.mark.parametrize(
    "decode",
    [
        "beam",
        pytest.param("greedy", marks=pytest.mark.long),
        pytest.param("ctc", marks=pytest.mark.long),
    ],
)
def test_a_calibration_changes_only_confidences(trained, calibrated, decode):
    clips = [trained.video(number) for number in range(4)]
    before = load_translator(trained.workdir).translate(clips, decode=decode)
    after = load_translator(calibrated).translate(clips, decode=decode)
    for ours, theirs in zip(after, before, strict=True):
        assert (ours.text, ours.tokens, ours.score) == (theirs.text, theirs.tokens, theirs.score)
        assert ours.confidence != theirs.confidence


def test_a_confidence_is_computed_with_the_fitted_scale(trained, calibrated):
    calibration = calibration_of(calibrated)
    frames = read_video(trained.video(1)).frames
    uncalibrated = load_translator(trained.workdir)
    raw = uncalibrated.translate(frames, fps=10, decode="greedy")
    ctc = uncalibrated.translate(frames, fps=10, decode="ctc")
    scaled = load_translator(calibrated).translate(frames, fps=10)
    hypothesis = _uncalibrated_hypothesis(load_model(trained.workdir), frames)
    sentence, words = statistics(
        "greedy",
        raw.score,
        hypothesis.probabilities,
        hypothesis.words,
        ctc.text,
        calibration.lexicon,
    )
    scales = calibration.decoders["greedy"]
    assert scaled.confidence == pytest.approx(scales.sentence(sentence), abs=1e-5)
    assert [word.confidence for word in scaled.words] == pytest.approx(
        [scales.word(features) for features in words], abs=1e-5
    )


def _uncalibrated_hypothesis(model, frames):
    predictor = model.predictor(["greedy"])
    (window,) = VideoInput(frames, 10, model.config.data, model.config.inference).windows
    video = np.zeros((1, tiny_run.FRAMES, tiny_run.SIZE, tiny_run.SIZE, 3), np.uint8)
    video[0, : len(window.frames)] = window.frames
    lengths = np.asarray([len(window.frames)], np.int32)
    (found,) = predictor(model.weights, {"video": video, "frame_lengths": lengths})["greedy"]
    return found


def test_a_stream_has_calibrated_confidences_too(trained, calibrated):
    frames = read_video(trained.video(2)).frames

    def streamed_segments(workdir):
        updates = load_translator(workdir).stream(
            iter(frames), fps=10, window_seconds=1.0, rest_evidence=0.0
        )
        return [segment for update in updates for segment in update.final]

    plain, scaled = streamed_segments(trained.workdir), streamed_segments(calibrated)
    assert [segment.text for segment in plain] == [segment.text for segment in scaled]
    before = [word.confidence for segment in plain for word in segment.words]
    after = [word.confidence for segment in scaled for word in segment.words]
    assert before
    assert all(old != new for old, new in zip(before, after, strict=True))


def test_the_minimum_confidence_applies_to_scaled_values(trained, calibrated):
    translator = load_translator(calibrated)
    video = trained.video(1)
    found = translator.translate(video)
    below, above = found.confidence - 1e-6, found.confidence + 1e-6
    assert translator.translate(video, min_confidence=below).text == found.text
    assert translator.translate(video, min_confidence=above).text == ""


@pytest.mark.long
def test_an_export_carries_the_calibration(trained, calibrated, tmp_path):
    flags = [
        f"--workdir={calibrated}",
        f"--output={tmp_path / 'out'}",
        "--format=safetensors",
        "--report_clips=1",
    ]
    assert tiny_run.command(export.main, *flags) == 0
    assert calibration_of(tmp_path / "out") == calibration_of(calibrated)
    ours, theirs = (
        load_translator(path).translate(trained.video(3)) for path in (calibrated, tmp_path / "out")
    )
    assert theirs.confidence == pytest.approx(ours.confidence, abs=1e-5)


def test_eval_replaces_a_damaged_calibration(calibrated, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(calibrated, workdir)
    (workdir / "calibration.json").write_text("{")
    with pytest.raises(CalibrationError, match=r"calibration\.json cannot be read.*--calibrate"):
        load_translator(workdir)
    calibrate_greedy(workdir)
    assert list(calibration_of(workdir).decoders) == ["greedy"]


def test_a_new_scale_keeps_those_of_other_decoders(calibrated, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(calibrated, workdir)
    before = calibration_of(workdir)
    wrong_greedy = dataclasses.replace(
        before, decoders={**before.decoders, "greedy": before.decoders["beam"]}
    )
    assert wrong_greedy != before
    (workdir / "calibration.json").write_text(to_json(wrong_greedy))
    calibrate_greedy(workdir)
    assert calibration_of(workdir) == before


def test_a_new_scale_drops_those_of_another_step(calibrated, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(calibrated, workdir)
    before = calibration_of(workdir)
    earlier = dataclasses.replace(before, step=before.step - 1)
    (workdir / "calibration.json").write_text(to_json(earlier))
    calibrate_greedy(workdir)
    found = calibration_of(workdir)
    assert found.step == before.step
    assert found.decoders == {"greedy": before.decoders["greedy"]}


def test_a_calibration_of_another_checkpoint_is_used_and_logged(calibrated, tmp_path, caplog):
    workdir = tmp_path / "run"
    shutil.copytree(calibrated, workdir)
    values = json.loads((workdir / "calibration.json").read_text())
    (workdir / "calibration.json").write_text(json.dumps(values | {"checkpoint_step": 1}))
    assert load_model(workdir).calibration.step == 1
    assert "calibrated at step 1" in caplog.text


def test_an_ensemble_cannot_be_calibrated(calibrated, capsys):
    twice = f"{calibrated},{calibrated}"
    assert tiny_run.command(eval_command.main, f"--workdir={twice}", "--calibrate", *FLAGS) == 2
    assert "an ensemble has no calibration" in capsys.readouterr().err
    assert load_model([calibrated, calibrated]).calibration is None


def test_a_run_that_validates_texts_calibrates_its_best_step(trained, tmp_path, monkeypatch):
    workdir, steps = tmp_path / "run", tiny_run.STEPS_PER_EPOCH * tiny_run.EPOCHS
    # Without its last checkpoint, the run has one epoch left.
    shutil.copytree(trained.workdir, workdir, ignore=shutil.ignore_patterns(str(steps)))
    words = [word.lower() for word in (*tiny_run.WHO, *tiny_run.WHAT)]
    lexicon = learn_lexicon(([word], [word]) for word in words)  # each word is its own gloss
    monkeypatch.setattr(RunCalibration, "lexicon", lexicon)
    flags = [
        f"--config={trained.config}",
        f"--workdir={workdir}",
        "--config.training.best_metric=wer",
        "--config.inference.lexicon_weight=1",
    ]
    assert tiny_run.command(train.main, *flags) == 0
    found = calibration_of(workdir)
    assert found.step == load_model(workdir).step == steps
    # The lexicon ranks the texts of beam search, so they have their own scale.
    assert list(found.decoders) == ["greedy", "ctc", "beam"]
    assert found.lexicon == lexicon
    assert found.clips == len(open_dataset(trained.data_dir, "video_folder").split("validation"))
    assert "confidence of greedy fitted on 4 clips" in (workdir / "run.log").read_text()


def test_a_run_that_validates_by_loss_has_no_calibration(trained):
    # The best checkpoint of this run is chosen by the validation loss.
    assert not (trained.workdir / "calibration.json").exists()
