"""Wrong usage of train, eval and translate: exit code 2 and one line, before any compilation.

tests/tfds_builders tests wrong usage of the build command.
"""

import fcntl
import importlib.util
import json
import shutil
import signal

import pytest

from signvit_jax.commands import eval as eval_command
from signvit_jax.commands import train, translate
from signvit_jax.inference.predictor import Predictor
from tests.helpers import tiny_run
from tfds_builders import build

pytestmark = pytest.mark.usefixtures("light_jax")


def usage_error(capfd, main, *arguments) -> str:
    """Return the standard error of a command that must end with exit code 2."""
    capfd.readouterr()
    assert tiny_run.command(main, *arguments) == 2
    message = capfd.readouterr().err
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["--config.training.batch_sise=8"], ["training.batch_sise", "training.batch_size"]),
        (["--config.training.encoder_lr=-1"], ["training.encoder_lr", "-1", ">= 0"]),
        (["--config.model.encoder.vit_num_heads=3"], ["vit_num_heads is 3", "vit_hidden_dim = 16"]),
        (["--config.data.num_frames=0"], ["data.num_frames is 0"]),
        (["--config.tokenizer.name=bert"], ["tokenizer.vocab_file", "vocab.txt"]),
        (
            ["--config.tokenizer.name=bert", "--config.tokenizer.vocab_file=/nowhere/vocab.txt"],
            ["/nowhere/vocab.txt"],
        ),
        (
            ["--config.training.best_metric=bleu4"],  # the texts of the data set have two words
            ["training.best_metric is 'bleu4'", "'chrf', 'wer', 'loss'"],
        ),
        (
            ["--config.evaluation.tokenize=cha"],
            ["evaluation.tokenize is 'cha'", "did you mean 'char'?"],
        ),
        (["--config.mesh.fsdp=3"], ["fsdp=3", "devices"]),
        (
            ["--config.data.name=no_such_set"],
            ["no_such_set", "signvit build no_such_set"],
        ),
        (
            ["--config.data.data_dir=/nowhere"],
            ["signvit build video_folder --data_dir=/nowhere"],
        ),
        (["--config.data.train_split=tran"], ["'tran'", "test, train, validation"]),
        (["--config.model.ctc.target=gloss"], ["model.ctc.target", "gloss"]),
        (["--batch_size=8"], ["--batch_size", "--config.training.batch_size"]),
    ],
)
def test_an_impossible_config_is_exit_2_with_key_and_value(
    trained, tmp_path, capfd, overrides, parts
):
    message = usage_error(
        capfd, train.main, f"--config={trained.config}", f"--workdir={tmp_path / 'run'}", *overrides
    )
    assert [part for part in parts if part not in message] == [], message


def test_a_missing_config_file_is_exit_2(tmp_path, capfd):
    assert "no_config.py" in usage_error(
        capfd, train.main, f"--config={tmp_path / 'no_config.py'}", f"--workdir={tmp_path / 'run'}"
    )


def test_a_workdir_of_another_model_is_exit_2_with_its_keys(trained, tmp_path, capfd):
    workdir = shutil.copytree(trained.workdir, tmp_path / "run")
    changes = [
        "--config.model.decoder.num_layers=2",
        "--config.model.temporal.num_queries=5",
        "--config.training.patience=7",
    ]
    message = usage_error(
        capfd, train.main, f"--config={trained.config}", f"--workdir={workdir}", *changes
    )
    assert "config.model.decoder.num_layers: 1 in the workdir, 2 now" in message
    assert "config.model.temporal.num_queries: 4 in the workdir, 5 now" in message
    assert "config.training.patience:" not in message
    assert json.loads((workdir / "config.json").read_text())["model"]["decoder"]["num_layers"] == 1


def test_a_data_set_rebuilt_with_another_option_is_exit_2(trained, tmp_path, capfd):
    workdir = shutil.copytree(trained.workdir, tmp_path / "run")
    tables = [f"--csv={trained.source / 'clips.csv'}", f"--videos={trained.source / 'videos'}"]
    options = ["--workers=1", "--jpeg_quality=50"]
    before = signal.getsignal(signal.SIGTERM)
    assert build.main(["video_folder", f"--data_dir={tmp_path}", *tables, *options]) == 0
    signal.signal(signal.SIGTERM, before)  # build sets a handler
    message = usage_error(
        capfd,
        train.main,
        f"--config={trained.config}",
        f"--workdir={workdir}",
        f"--config.data.data_dir={tmp_path}",
    )
    assert "option jpeg_quality: 90 then, 50 now" in message and "split 'test': 6 clips" in message
    config = json.loads((workdir / "config.json").read_text())
    assert config["data"]["data_dir"] == str(trained.data_dir)


def test_fewer_epochs_than_done_are_exit_2_and_change_nothing(trained, tmp_path, capfd):
    workdir = shutil.copytree(trained.workdir, tmp_path / "run")
    before = (workdir / "config.json").read_text()
    message = usage_error(
        capfd,
        train.main,
        f"--config={trained.config}",
        f"--workdir={workdir}",
        "--config.training.num_epochs=4",
    )
    assert "asks for 4 epochs, but this workdir has done 6 (step 18); give 6 or more" in message
    assert (workdir / "config.json").read_text() == before


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\x00", b"[]"])
def test_a_damaged_config_or_tokenizer_is_named_by_path(trained, tmp_path, capfd, name, content):
    workdir = shutil.copytree(
        trained.workdir, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints")
    )
    (workdir / name).write_bytes(content)
    assert str(workdir / name) in usage_error(
        capfd, translate.main, trained.video(0), f"--workdir={workdir}"
    )
    assert str(workdir / name) in usage_error(
        capfd, train.main, f"--config={trained.config}", f"--workdir={workdir}"
    )


def test_a_second_trainer_on_one_workdir_is_exit_2(trained, tmp_path, capfd):
    workdir = shutil.copytree(trained.workdir, tmp_path / "run")
    with (workdir / ".lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "in use" in usage_error(
            capfd, train.main, f"--config={trained.config}", f"--workdir={workdir}"
        )


@pytest.mark.parametrize("command", ["eval", "translate"])
@pytest.mark.parametrize(
    ("path", "reason"),
    [("no_such_folder", "does not exist"), ("", "has no config.json"), ("clips.csv", "is a file")],
)
def test_a_path_that_is_not_a_workdir_is_exit_2(trained, capfd, command, path, reason):
    folder = trained.source / path
    arguments = [eval_command.main] if command == "eval" else [translate.main, trained.video(0)]
    message = usage_error(capfd, *arguments, f"--workdir={folder}")
    assert reason in message and str(folder).rstrip("/") in message


def test_a_workdir_without_a_checkpoint_is_exit_2(trained, tmp_path, capfd):
    workdir = shutil.copytree(
        trained.workdir, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints")
    )
    message = usage_error(capfd, translate.main, trained.video(0), f"--workdir={workdir}")
    assert "no checkpoint" in message


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--split=tset"], ["'tset'", "test, train, validation"]),
        (["--decode=greedy,bream"], ["'bream'", "greedy, beam, ctc"]),
        (["--name=no_such_set"], ["signvit build no_such_set"]),
        (["--checkpoint=first"], ["'first'", "best"]),
        (
            ["--tokenize=klingon"],
            ["'klingon'", "auto", "13a", "none", "char", "zh", "ja-mecab", "ko-mecab"],
        ),
    ],
)
def test_eval_refuses_unknown_names(trained, capfd, flags, parts):
    message = usage_error(capfd, eval_command.main, f"--workdir={trained.workdir}", *flags)
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.skipif(importlib.util.find_spec("MeCab") is not None, reason="MeCab is installed")
def test_a_missing_tokenization_is_refused_before_decoding(trained, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(Predictor, "predict_split", None)
    assert "sacrebleu[ja]" in usage_error(
        capfd, eval_command.main, f"--workdir={trained.workdir}", "--tokenize=ja-mecab"
    )
    override = "--config.evaluation.tokenize=ja-mecab"
    assert "sacrebleu[ja]" in usage_error(
        capfd, train.main, f"--config={trained.config}", f"--workdir={tmp_path / 'run'}", override
    )


@pytest.mark.parametrize(
    "flag", ["--beam_size=0", "--temperature=0", "--top_p=2", "--length_penalty=nan", "--top_k=-1"]
)
def test_translate_refuses_impossible_decoding_values(trained, capfd, flag):
    message = usage_error(
        capfd,
        translate.main,
        trained.video(0),
        f"--workdir={trained.workdir}",
        "--decode=beam",
        flag,
    )
    assert flag.removeprefix("--").split("=")[0] in message
