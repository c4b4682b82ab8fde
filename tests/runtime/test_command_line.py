"""Messages about wrong usage, alike in every command, and the name that a command shows."""

import subprocess
import sys

import pytest

from signvit_jax.commands import (
    convert,
    data_report,
    dispatch,
    distill,
    export,
    inspect_config,
    train,
    translate,
)
from signvit_jax.commands import eval as eval_command
from signvit_jax.runtime.command_line import integer, parser, positive, program_name
from tests.helpers import tiny_run


def refusal(capsys, main, *arguments) -> str:
    """Return the last message of a command that must end with exit code 2."""
    assert tiny_run.command(main, *arguments) == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("main", "wrong", "meant"),
    [
        (train.main, "--confg=c.py", "--config"),
        (train.main, "--wrokdir=w", "--workdir"),
        (train.main, "-config=c.py", "--config"),
        (distill.main, "--techer=t", "--teacher"),
        (convert.main, "--weigths=w", "--weights"),
        (export.main, "--fromat=onnx", "--format"),
        (eval_command.main, "--decoed=beam", "--decode"),
        (translate.main, "--beam-size=5", "--beam_size"),
        (inspect_config.main, "--devcies=8", "--devices"),
        (data_report.main, "--ouput=page.html", "--output"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_misspelled_flag_gets_the_nearest_flag_as_suggestion(capsys, main, wrong, meant):
    message = refusal(capsys, main, wrong)  # required flags are missing too, but not reported
    flag = wrong.partition("=")[0]
    assert message.endswith(f"error: unknown argument {flag}; did you mean {meant}?")


def test_a_config_key_given_as_a_flag_gets_its_override_as_suggestion(capsys):
    message = refusal(
        capsys, train.main, "--config=c.py", "--workdir=w", "--gradient_acumulation=2"
    )
    assert "did you mean --config.training.gradient_accumulation?" in message


def test_all_config_keys_of_that_name_are_suggested(capsys):
    message = refusal(capsys, train.main, "--config=c.py", "--workdir=w", "--batch_size", "8")
    assert "--config.training.batch_size or --config.inference.batch_size?" in message


def test_an_override_without_a_config_gets_the_flag_as_suggestion(capsys):
    message = refusal(capsys, eval_command.main, "--workdir=w", "--config.inference.beam_size=3")
    assert "did you mean --beam_size?" in message


def test_a_flag_that_resembles_no_other_gets_no_suggestion(capsys):
    message = refusal(capsys, eval_command.main, "--workdir=w", "--xyz")
    assert message.endswith("error: unknown argument --xyz")
    message = refusal(capsys, train.main, "--config=c.py", "--workdir=w", "--xyz")
    assert message.endswith("values of the config are set as --config.group.key=value")


def test_help_is_shown_despite_a_misspelled_flag(capsys):
    assert tiny_run.command(eval_command.main, "--wrong", "--help") == 0
    assert "usage:" in capsys.readouterr().out


@pytest.fixture
def flags():
    flags = parser("A command.", "command --count=3")
    flags.add_argument("--count", type=integer(1))
    flags.add_argument("--seconds", type=positive("seconds"))
    flags.add_argument("files", nargs="*")
    return flags


@pytest.mark.parametrize("file", ["-5", "--my clip.mp4"])
def test_arguments_that_only_look_like_flags_are_kept(flags, file):
    assert flags.parse_args([file]).files == [file]


def test_after_two_dashes_everything_is_a_file(flags):
    assert flags.parse_args(["--count=2", "--", "--clip.mp4"]).files == ["--clip.mp4"]


@pytest.mark.parametrize("flag", ["--count=0", "--count=1.5", "--count=x"])
def test_an_integer_flag_refuses_other_values(flags, flag, capsys):
    assert flags.parse_args(["--count=7"]).count == 7
    with pytest.raises(SystemExit):
        flags.parse_args([flag])
    assert "allowed: an integer >= 1" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--seconds=0", "--seconds=inf", "--seconds=nan", "--seconds=x"])
def test_a_seconds_flag_refuses_other_values(flags, flag, capsys):
    assert flags.parse_args(["--seconds=0.5"]).seconds == 0.5
    with pytest.raises(SystemExit):
        flags.parse_args([flag])
    assert "allowed: seconds > 0" in capsys.readouterr().err


def test_train_started_by_signvit_is_called_signvit_train(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["signvit train", "--help"])
    assert program_name() == program_name("signvit_jax.train") == "signvit train"


def test_a_module_that_is_run_directly_has_its_own_name(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/train.py"])
    assert program_name("signvit_jax.train") == "python -m signvit_jax.train"


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("signvit_jax.train", ["--help"]),
        ("signvit_jax.eval", ["--help"]),
        ("tfds_builders.build", ["video_folder", "--help"]),
        ("tfds_builders.check", ["video_folder", "--help"]),
    ],
)
def test_the_usage_of_a_module_names_the_module(module, arguments):
    result = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        cwd=tiny_run.REPOSITORY,
    )
    usage = f"usage: python -m {module} {' '.join(arguments[:-1])}".rstrip()
    assert result.stdout.startswith(usage)


BUILDER_COMMANDS = {"build", "check"}  # they need the name of a data set


def through_signvit(monkeypatch, *arguments) -> int:
    """Return the exit code of `signvit` with these arguments."""
    monkeypatch.setattr(sys, "argv", ["signvit"])
    try:
        return dispatch.main(arguments)
    except SystemExit as end:  # training commands end the process themselves
        return end.code


@pytest.mark.parametrize("name", dispatch.COMMANDS)
def test_help_under_signvit_never_says_python_m(name, monkeypatch, capsys):
    arguments = ["video_folder"] if name in BUILDER_COMMANDS else []
    through_signvit(monkeypatch, name, *arguments, "--help")
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: {' '.join(['signvit', name, *arguments])}")
    assert "python -m" not in shown
    through_signvit(monkeypatch, name, "--help")
    assert "python -m" not in capsys.readouterr().out


@pytest.mark.parametrize("name", dispatch.COMMANDS)
def test_every_command_reports_an_unknown_flag_alike(name, monkeypatch, capsys):
    arguments = ["video_folder"] if name in BUILDER_COMMANDS else []
    assert through_signvit(monkeypatch, name, *arguments, "--xyzzy=3") == 2
    assert "unknown argument --xyzzy" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["configs", "demo", "eval", "export", "pull", "push", "build"])
def test_every_command_reports_an_unexpected_argument_alike(name, monkeypatch, capsys):
    arguments = {
        "build": ["video_folder", "--data_dir=x", "--csv=a", "--videos=b"],
        "configs": ["small"],
        "eval": ["--workdir=w"],
        "export": ["--workdir=w", "--format=int8", "--output=o"],
        "pull": ["hf://a/b", "folder"],
        "push": ["folder", "hf://a/b"],
    }
    assert through_signvit(monkeypatch, name, *arguments.get(name, []), "one_too_many") == 2
    assert "unexpected argument 'one_too_many'" in capsys.readouterr().err
