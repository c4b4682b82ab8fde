"""Tests of `signvit inspect`: sizes of a config's model, without its data and weights."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from signvit_jax.commands import inspect_config
from signvit_jax.config.files import load_config
from signvit_jax.planning import describe_run
from signvit_jax.planning.abstract_step import largest_vocabulary
from tests.helpers import tiny_run

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def restore_jax_settings(tmp_path):
    with tiny_run.light_jax(tmp_path / "cache"):
        yield


@pytest.fixture
def config(tmp_path):
    return tiny_run.write_config(tmp_path / "config.py", tmp_path / "no_data_here")


def inspect(capsys, *arguments):
    """Run the command; return its exit code, output and error output."""
    code = tiny_run.command(inspect_config.main, *arguments)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def numbers(text, name):
    """Return the numbers in the first line that begins with `name`."""
    line = next(line for line in text.splitlines() if line.strip().startswith(name))
    return [
        float(number.replace(",", ""))
        for number in re.findall(r"(?<![\w.])[\d,]+(?:\.\d+)?", line.replace(name, "", 1))
    ]


def test_a_config_is_described_without_data_or_training(config, capsys, tmp_path):
    before = set(tmp_path.rglob("*"))
    code, printed, _ = inspect(capsys, f"--config={config}", "--vocab_size=40", "--text_length=8")
    assert code == 0
    assert set(tmp_path.rglob("*")) - before <= {
        tmp_path / "cache",
        *(tmp_path / "cache").rglob("*"),
    }
    assert "a vocabulary of 40 tokens" in printed
    assert numbers(printed, "embedding")[0] == 40 * 16
    modules = [numbers(printed, name)[0] for name in ("ctc_head", "decoder", "encoder")]
    assert sum(modules) == numbers(printed, "total")[0]
    assert numbers(printed, "gradients and activations")[0] > 0
    operations = printed[
        printed.index("GFLOP of matrix products, per clip of 8 frames and 8 tokens") :
    ]
    parts = [
        numbers(operations, name)[0] for name in ("backbone", "temporal", "decoder", "ctc_head")
    ]
    assert sum(parts) == pytest.approx(numbers(operations, "forward")[0], abs=0.02)
    assert re.search(r"video +uint8 +4x8x32x32x3 ", printed) and re.search(
        r"tokens +int32 +4x8 ", printed
    )
    assert (
        "arrays of parameters are replicated on every device" in printed
        and "are sharded" not in printed
    )


def test_the_full_model_is_described_without_its_weights():
    config = load_config(str(REPOSITORY / "configs" / "reference.py"))
    bytes_before = sum(array.nbytes for array in jax.live_arrays())
    printed = describe_run.describe(config, compiling=False)
    assert sum(array.nbytes for array in jax.live_arrays()) - bytes_before < 10**6
    assert (
        numbers(printed, "total")[0] == 354_323_258
        and numbers(printed, "backbone")[0] == 303_301_632
    )
    assert "(123.11 per frame in the backbone)" in printed
    assert "not compiled" in printed


@pytest.mark.long
def test_a_larger_mesh_is_planned_on_virtual_devices(config):
    """Run in a new process: JAX fixes the number of devices when it is first used."""
    command = [
        sys.executable,
        "-m",
        "signvit_jax.inspect_config",
        f"--config={config}",
        "--devices=8",
        "--no_compile",
        "--vocab_size=41",
    ]
    done = subprocess.run(
        [*command, "--config.mesh.fsdp=2", "--config.mesh.tensor=2"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "mesh data=2, fsdp=2, tensor=2: 8 x cpu" in done.stdout
    assert re.search(
        r"decoder/embedding +42x16 +\(tensor, fsdp\) +21x8\n", done.stdout
    )  # 41 does not divide by 2
    assert re.search(
        r"blocks/attention/qkv/kernel +2x16x48 +\(-, fsdp, tensor\) +2x8x24\n", done.stdout
    )
    assert re.search(r"video .* on one device 1x8x32x32x3\n", done.stdout)


def test_glosses_have_a_separate_vocabulary(config, capsys):
    arguments = ["--no_compile", "--vocab_size=40", "--gloss_vocab_size=30"]
    code, printed, _ = inspect(
        capsys, f"--config={config}", *arguments, "--config.model.ctc.target=gloss"
    )
    assert code == 0
    assert "40 tokens, 30 glosses" in printed and "gloss_tokens" in printed
    assert numbers(printed, "out   ")[0] == 17 * 30


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config.mesh.fsdp=3"], "fsdp=3"),
        (["--config.mesh.fdsp=2"], "fsdp"),
        (["--config.tokenizer.name=bert"], "vocab_file"),
    ],
)
def test_a_config_that_cannot_be_run_is_refused(config, capsys, arguments, words):
    code, _, printed = inspect(capsys, f"--config={config}", "--no_compile", *arguments)
    assert code == 2 and words in printed


def test_wrong_usage_is_refused(config, capsys):
    code, _, printed = inspect(capsys, f"--config={config}", "--vocab_size=0")
    assert code == 2 and "allowed: an integer >= 1" in printed


@pytest.mark.parametrize(("file", "size"), [("a\nb\nc\n", 3), (None, 30_522)])
def test_a_bert_vocabulary_has_the_size_of_its_file(tmp_path, file, size):
    path = tmp_path / "vocab.txt"
    if file:
        path.write_text(file)
    config = load_config(f"{REPOSITORY}/configs/reference.py:{path}")
    assert largest_vocabulary(config) == size
