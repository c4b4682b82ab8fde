"""Tests of `signvit inspect --device`: plans for accelerators, without XLA's compilers."""

import json

import pytest

from signvit_jax.commands import inspect_config
from signvit_jax.planning import compile_elsewhere
from signvit_jax.planning.step_plan import StepPlan
from tests.helpers import tiny_run
from tests.planning.test_plan_report import Compiler, plan


@pytest.fixture
def config(tmp_path):
    return tiny_run.write_config(tmp_path / "config.py", tmp_path / "no_data_here")


@pytest.fixture
def planned(monkeypatch):
    """The list of requests for plans; each gets a plan that fits."""
    requests = []

    def make_plan(config, request):
        requests.append(request)
        return plan(47.9, device=request.device, devices=request.devices)

    monkeypatch.setattr(compile_elsewhere, "plan_elsewhere", make_plan)
    monkeypatch.setattr(compile_elsewhere, "check_packages", lambda device: None)
    return requests


def inspect(capsys, *arguments):
    """Run the command; return its exit code, output and error output."""
    code = tiny_run.command(inspect_config.main, *arguments)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_step_that_fits_is_reported(config, planned, capsys):
    code, printed, progress = inspect(capsys, f"--config={config}", "--device=h100")
    assert code == 0 and "fits: 66%" in printed
    assert "compiling for 1 x NVIDIA H100" in progress
    assert [request.devices for request in planned] == [1]


def test_the_mesh_determines_the_number_of_planned_devices(config, planned, capsys):
    mesh = ["--config.mesh.fsdp=2", "--config.mesh.tensor=2", "--no_advice"]
    inspect(capsys, f"--config={config}", "--device=v5e", *mesh)
    inspect(capsys, f"--config={config}", "--device=v5e", *mesh, "--devices=8", "--memory=12.5")
    assert [request.devices for request in planned] == [4, 8]
    assert planned[1].memory_gib == 12.5 and planned[1].kind.usable == 12.5 * 2**30


def test_all_devices_make_a_table(config, planned, capsys):
    code, printed, _ = inspect(capsys, f"--config={config}", "--device=all")
    names = [line.split()[0] for line in printed.splitlines()[2:]]
    assert code == 0 and names == ["h100", "a100_40", "a100_80", "v5e", "v5p", "v6e"]


def test_plans_can_be_read_by_programs(config, planned, capsys):
    code, printed, _ = inspect(capsys, f"--config={config}", "--device=all", "--json")
    plans = [StepPlan.from_json(line) for line in printed.splitlines()]
    assert code == 0 and plans[0].request.device == "h100" and len(plans) == 6
    assert json.loads(printed.splitlines()[0])["total"] == plans[0].total


def test_a_step_that_does_not_fit_ends_with_advice_and_code_5(config, planned, capsys, monkeypatch):
    compiler = Compiler()
    monkeypatch.setattr(compile_elsewhere, "plan_elsewhere", lambda config, _: compiler(config))
    arguments = [f"--config={config}", "--device=h100", "--config.training.remat=dots"]
    code, printed, _ = inspect(capsys, *arguments)
    assert code == 5
    assert "does not fit" in printed and "--config.training.remat=full" in printed
    compiler.requests.clear()
    code, printed, _ = inspect(capsys, *arguments, "--no_advice")
    assert code == 5 and len(compiler.requests) == 1 and "What to" not in printed


def test_remaining_options_are_listed_if_no_setting_fits(config, planned, capsys, monkeypatch):
    monkeypatch.setattr(compile_elsewhere, "plan_elsewhere", lambda *_: plan(900.0))
    code, printed, _ = inspect(capsys, f"--config={config}", "--device=h100")
    assert code == 5 and "data.image_size" in printed


def test_missing_packages_end_with_the_command_that_installs_them(config, capsys, monkeypatch):
    monkeypatch.setattr(compile_elsewhere, "_is_there", lambda module: False)
    code, _, error = inspect(capsys, f"--config={config}", "--device=a100_80")
    assert code == 2 and "pip install" in error and "jax[cuda12-local,tpu]" in error
    assert "nvidia.cudnn not found" in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device=h200"], "invalid choice: 'h200'"),
        (["--memory=24"], "--device=h100"),
        (["--no_advice"], "--device=h100"),
        (["--device=v5e", "--no_compile"], "--no_compile"),
        (["--device=v5e", "--memory=0"], "a number > 0"),
        (["--device=v5e", "--devices=3"], "--devices is 3"),
        (["--device=all", "--devices=12"], "--devices is 12"),
    ],
)
def test_wrong_usage_is_refused(config, capsys, monkeypatch, arguments, words):
    monkeypatch.setattr(compile_elsewhere, "_is_there", lambda module: True)
    code, _, error = inspect(capsys, f"--config={config}", *arguments)
    assert code == 2 and words in error
