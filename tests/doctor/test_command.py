"""`signvit doctor`: output, exit codes, and that private paths are not printed."""

import json
from pathlib import Path

import pytest

from signvit_jax.doctor import command, registry
from signvit_jax.doctor.findings import Finding, Request
from signvit_jax.doctor.registry import Check
from signvit_jax.runtime.exit_codes import run_command


@pytest.fixture
def checks(monkeypatch):
    """Return a function that replaces the checks by two, and sets the level of the second."""

    def use(level, found="all \x1b[31mfine", advice="do this"):
        first = Finding("", "ok", "fine")
        second = Finding("", level, found, advice)
        pair = (
            Check("first", lambda request: request, lambda facts: first),
            Check("second", lambda request: request, lambda facts: second),
        )
        monkeypatch.setattr(command, "CHECKS", pair)
        monkeypatch.setattr(
            command,
            "run_checks",
            lambda request, seconds: registry.run_checks(request, seconds, pair),
        )

    return use


@pytest.mark.parametrize(("level", "code"), [("ok", 0), ("note", 0), ("skipped", 0), ("bad", 1)])
def test_only_bad_findings_change_the_exit_code(checks, capsys, level, code):
    checks(level)
    assert run_command(lambda: command.main(["--quick"])) == code
    printed = capsys.readouterr().out
    assert "second" in printed and "\\x1b[31mfine" in printed
    assert ("-> do this" in printed) == (level in ("note", "bad"))
    count = "2 ok" if level == "ok" else f"1 {level}"
    assert count in printed.splitlines()[-1]


def test_json_has_the_facts_without_the_home_folder(checks, capsys):
    checks("bad", found=f"{Path.home()}/secret cannot be read")
    assert run_command(lambda: command.main(["--json", f"--workdir={Path.home()}/x"])) == 1
    printed = capsys.readouterr().out
    content = json.loads(printed)
    assert content["ok"] is False and str(Path.home()) not in printed
    assert content["checks"][1]["found"] == "~/secret cannot be read"
    assert content["checks"][1]["facts"]["workdir"] == "~/x"


def test_a_workdir_sets_the_config_and_the_data_folder(trained, checks, monkeypatch):
    requests = []
    checks("ok")
    monkeypatch.setattr(
        command, "run_checks", lambda request, seconds: requests.append(request) or iter(())
    )
    command.main([f"--workdir={trained.workdir}"])
    assert requests[0].config is not None and requests[0].data_dir == str(trained.data_dir)
    command.main(["--config=small", "--config.data.data_dir=/nowhere"])
    assert requests[1].data_dir == "" and requests[1].config is not None
    command.main(["--workdir=/nowhere"])
    assert requests[2] == Request(workdir="/nowhere")


def test_an_unknown_config_is_wrong_usage(capsys):
    assert run_command(lambda: command.main(["--config=smal"])) == 2
    assert "no preset 'smal'" in capsys.readouterr().err


def test_the_quick_checks_of_this_machine(capsys):
    code = run_command(lambda: command.main(["--quick", "--json"]))
    content = json.loads(capsys.readouterr().out)
    levels = {check["name"]: check["level"] for check in content["checks"]}
    assert len(levels) == 16 and code == ("bad" in levels.values())
    assert levels["python"] != "bad" and levels["devices"] == "skipped"


@pytest.mark.long
def test_all_checks_of_a_run(trained, capsys):
    code = run_command(
        lambda: command.main(["--json", "--seconds=120", f"--workdir={trained.workdir}"])
    )
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert {name: check["found"] for name, check in checks.items() if check["level"] == "bad"} == {}
    assert code == 0 and "skipped" not in {check["level"] for check in checks.values()}
    assert checks["devices"]["facts"]["difference"] < 0.02
    assert checks["config"]["facts"]["state"] > 0
