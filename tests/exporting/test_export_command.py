"""The export command on a finished run: every format, the report, and exports that are loaded."""

import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from signvit_jax import load_translator
from signvit_jax.commands import eval as evaluation
from signvit_jax.commands import export, translate
from signvit_jax.config.errors import ConfigError
from signvit_jax.inference.loading import load_model
from signvit_jax.serving.export_dir import ExportError
from signvit_jax.serving.stablehlo_runtime import StableHloPrograms
from tests.helpers import tiny_run

LONG = pytest.mark.long
FORMATS = [
    pytest.param(("int8", None), id="int8"),
    pytest.param(("int8", "weights_and_inputs"), marks=LONG, id="int8 inputs"),
    pytest.param(("onnx", None), id="onnx"),
    # These formats have short tests too: in tests/serving/test_programs.py, and below without data.
    pytest.param(("stablehlo", None), marks=LONG, id="stablehlo"),
    pytest.param(("onnx", "none"), marks=LONG, id="onnx float32"),
    pytest.param(("safetensors", None), marks=LONG, id="safetensors"),
]


def run_export(trained, output, *flags) -> int:
    """Return the exit code of an export of the trained model."""
    paths = (f"--workdir={trained.workdir}", f"--output={output}")
    return tiny_run.command(export.main, *paths, *flags)


@pytest.fixture(scope="module", params=FORMATS)
def exported(request, trained, tmp_path_factory):
    """(the format, the value of --quantize or None, the folder of an export)."""
    export_format, quantize = request.param
    output = tmp_path_factory.mktemp("exports") / "model"
    quantize_flag = [f"--quantize={quantize}"] if quantize else []
    flags = (
        f"--format={export_format}",
        *quantize_flag,
        "--calibration_clips=4",
        "--report_clips=3",
        "--license=CC BY 4.0",
        "--sign_language=Tiny Signs",
    )
    with tiny_run.light_jax(trained.cache):
        assert run_export(trained, output, *flags) == 0
    return export_format, quantize, output


def test_an_export_opens_translates_and_reports(trained, exported):
    export_format, quantize, output = exported
    assert not output.with_name("model.unfinished").exists()
    report = json.loads((output / "report.json").read_text())
    exact = quantize == "none" or export_format in ("stablehlo", "safetensors")
    for difference in report["difference"].values():
        limit = 1e-4 if exact else 0.2 * difference["of"]
        assert difference["largest"] <= limit, report["difference"]
        assert exact or difference["largest"] > 0
    assert report["size"]["export_bytes"] > 0 and report["latency"]["after"] > 0
    scores = report["scores"]
    assert scores["clips"] == 3 and scores["before"]["examples"] == scores["after"]["examples"] == 3
    if exact:
        assert scores["before"] == scores["after"]

    card = (output / "README.md").read_text()
    for text in (
        "CC BY 4.0",
        "Tiny Signs",
        "`video_folder`",
        scores["after"]["signature"],
        "must not be used",
        "## Limits",
    ):
        assert text in card

    clips = [trained.video(0), trained.video(3)]
    ours, theirs = load_translator(trained.workdir), load_translator(output)
    for decode in ("greedy", "beam", "ctc") if exact else ("beam",):
        after = theirs.translate(clips, decode=decode)
        assert len(after) == len(clips)
        assert all(np.isfinite(translation.score) for translation in after)
        if exact:
            before = ours.translate(clips, decode=decode)
            for old, new in zip(before, after, strict=True):
                assert old.text == new.text
                assert old.score == pytest.approx(new.score, rel=1e-7, abs=1e-3)


def test_an_export_names_no_folder_of_its_author(trained, exported):
    _, _, output = exported
    assert str(trained.data_dir) in (trained.workdir / "config.json").read_text()
    for file in output.iterdir():
        content = file.read_bytes()
        for folder in (trained.workdir, trained.data_dir, tiny_run.REPOSITORY, sys.prefix):
            assert str(folder).encode() not in content, (file.name, folder)


def test_int8_parameters_stay_int8(exported):
    export_format, quantize, output = exported
    if export_format != "int8":
        pytest.skip("this test is for INT8 exports")
    parameters = {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(load_model(output).params)
    }
    int8 = [
        name
        for name, leaf in parameters.items()
        if leaf.dtype == np.int8 and name.endswith("['kernel']")
    ]
    assert any("encoder" in name for name in int8) and any("decoder" in name for name in int8)
    has_input_scales = any("input_scale" in name for name in parameters)
    assert has_input_scales == (quantize == "weights_and_inputs")


def test_translate_and_eval_accept_an_export(trained, exported, tmp_path, capsys):
    export_format, _, output = exported
    backend, wrong_backend = ("onnx", "jax") if export_format == "onnx" else ("jax", "onnx")
    arguments = (f"--workdir={output}", trained.video(0))
    assert tiny_run.command(translate.main, *arguments, f"--backend={backend}") == 0
    assert "clip00.mp4\t" in capsys.readouterr().out
    assert tiny_run.command(translate.main, *arguments, f"--backend={wrong_backend}") == 2
    results = tmp_path / "results.json"
    flags = (
        f"--workdir={output}",
        f"--data_dir={trained.data_dir}",
        "--decode=greedy",
        f"--output={results}",
    )
    assert tiny_run.command(evaluation.main, *flags) == 0
    assert len(json.loads(results.read_text())["predictions"]) == tiny_run.CLIPS["test"]
    assert results.with_suffix(".html").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--format=stablehlo", "--quantize=weights"),
            "--quantize=weights is not possible with --format=stablehlo; allowed: none",
        ),
        (
            ("--format=int8", "--quantize=weights_and_inputs", "--data_dir=/no/such"),
            "no folder '/no/such'",
        ),
        (("--format=onnx", "--name=other"), "data set 'other' is not built"),
    ],
)
def test_an_impossible_export_is_an_error_and_leaves_nothing(
    trained, tmp_path, capsys, flags, message
):
    assert run_export(trained, tmp_path / "out", *flags) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_export_overwrites_nothing(trained, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert run_export(trained, tmp_path, "--format=safetensors") == 2
    assert "exists already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.usefixtures("light_jax")
def test_without_data_the_report_has_no_scores(trained, tmp_path, capsys):
    output = tmp_path / "out"
    assert run_export(trained, output, "--format=safetensors", "--data_dir=/no/such") == 0
    assert "warning: no scores in the report" in capsys.readouterr().err
    report = json.loads((output / "report.json").read_text())
    assert "scores" not in report and report["difference"]["logits"]["largest"] <= 1e-4
    assert "No scores" in (output / "README.md").read_text()

    # A damaged copy of the export is an error. None stands for a missing file.
    for name, content, message in (
        ("weights.safetensors", "no", "cannot be read"),
        ("weights.safetensors", None, "cannot be read"),
        ("export.json", '{"version": 9}', "export the model again"),
        ("export.json", "{", "export the model again"),
    ):
        copy = shutil.copytree(output, tmp_path / "copy")
        (copy / name).unlink()
        if content is not None:
            (copy / name).write_text(content)
        with pytest.raises(Exception, match=message) as caught:
            load_model(copy)
        assert caught.value.exit_code == 2
        shutil.rmtree(copy)


def test_a_workdir_has_no_onnx_programs(trained):
    with pytest.raises(ConfigError, match=r"export --workdir=.* --format=onnx"):
        load_model(trained.workdir, backend="onnx")


@pytest.mark.parametrize(
    ("export_format", "module"),
    [("stablehlo", "flatbuffers"), ("onnx", "jax2onnx")],
)
def test_an_export_without_its_package_leaves_nothing(
    monkeypatch, trained, tmp_path, capsys, export_format, module
):
    monkeypatch.setitem(sys.modules, module, None)
    flags = (f"--format={export_format}", "--calibration_clips=1")
    assert run_export(trained, tmp_path / "out", *flags) == 2
    errors = capsys.readouterr().err
    assert module in errors and "pip install '" in errors and "Traceback" not in errors
    assert not list(tmp_path.iterdir())


def test_loading_stablehlo_without_its_package_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(
        ExportError, match=r"a StableHLO export needs flatbuffers .*pip install 'flatbuffers"
    ):
        StableHloPrograms(None, None, None)


@pytest.mark.long
def test_broken_examples_of_jax2onnx_are_not_logged(tmp_path):
    """The conversion runs in a new process, because jax2onnx imports its examples only once.

    `chex` and `dm_pix` are packages that only the examples need.
    """
    program = """if True:
        import sys
        sys.modules |= {"chex": None, "dm_pix": None}
        import jax
        from pathlib import Path
        from tests.helpers import tiny_model
        from signvit_jax.exporting.onnx_files import _convert
        from signvit_jax.serving.programs import programs
        from signvit_jax.models.definition import ModelDefinition
        config = tiny_model.config()
        definition = ModelDefinition(config, tiny_model.VOCABULARY)
        (label,) = [program for program in programs(config) if program.name == "label"]
        _convert(label, definition, jax.jit(definition.init)(0), Path(sys.argv[1]))
    """
    path = str(tiny_run.REPOSITORY)
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "label.onnx")],
        env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    errors = result.stderr
    assert result.returncode == 0, errors[-2000:]
    assert (tmp_path / "label.onnx").stat().st_size > 0
    assert "Traceback" not in errors and "Skipping" not in errors, errors[-2000:]
