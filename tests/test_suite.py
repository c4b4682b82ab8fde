"""Tests of the suite itself: results do not depend on the load; each commit runs long tests."""

import json
import os
import socket
import subprocess
import sys

from hypothesis import HealthCheck, settings

from tests.helpers import long_slice, tiny_run
from tests.helpers.free_port import free_port


def test_property_tests_have_no_deadline():
    assert settings().deadline is None
    assert settings(max_examples=5).deadline is None
    assert HealthCheck.too_slow in settings().suppress_health_check


def test_free_ports_are_distinct_and_below_those_of_outgoing_connections():
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == len(ports) and min(ports) >= 20_000 and max(ports) < 32_000
    with socket.create_server(("127.0.0.1", ports[-1] + 1)):
        assert free_port() != ports[-1] + 1


# Test -> seconds.
LONG_SECONDS = {f"tests/test_{number}.py::test_it": float(number) for number in range(1, 80, 3)}
COMMITS = [f"commit {number}" for number in range(300)]


def test_a_slice_of_long_tests_is_full_and_fits_its_budget():
    """A test whose time is not recorded counts as 60 seconds."""
    known = {test: seconds for test, seconds in LONG_SECONDS.items() if seconds > 20}
    for commit in COMMITS:
        chosen = long_slice.choose(LONG_SECONDS, known, commit)
        assert chosen == long_slice.choose(sorted(LONG_SECONDS, reverse=True), known, commit)
        spent = sum(known.get(test, 60.0) for test in chosen)
        shortest_left = min(known.get(test, 60.0) for test in LONG_SECONDS.keys() - chosen)
        assert spent <= 180 < spent + shortest_left


def test_every_test_below_ten_minutes_is_chosen_by_some_commit():
    one_hour, some_minutes = "tests/test_hour.py::test_it", "tests/test_minutes.py::test_it"
    known = LONG_SECONDS | {one_hour: 3600.0, some_minutes: 500.0}
    slices = [long_slice.choose(known, known, commit) for commit in COMMITS]
    assert set.union(*slices) == known.keys() - {one_hour}
    assert {some_minutes} in slices


def test_the_choice_is_printed_and_all_workers_make_the_same_choice(tmp_path):
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "@pytest.mark.long\n"
        "@pytest.mark.parametrize('number', range(9))\n"
        "def test_long(number):\n    pass\n"
        "def test_short():\n    pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "tests.helpers.long_slice", "--strict-markers"]
    command += [f"--rootdir={tmp_path}", "-o", "markers=long", "-c", os.devnull, "-q"]
    command += ["--long-slice=0e24afd", f"--record-long={tmp_path / 'seconds.json'}", tmp_path]
    choices = []
    for workers in ([], ["-n", "2", "--dist", "loadgroup"]):
        done = subprocess.run(
            [*command, *workers],
            cwd=tiny_run.REPOSITORY,
            env=os.environ | {"PYTHONPATH": str(tiny_run.REPOSITORY)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 and "4 passed" in done.stdout, done.stdout + done.stderr
        assert "3 of 9 long tests, the slice of 0e24afd; --long runs all:" in done.stdout
        recorded = json.loads((tmp_path / "seconds.json").read_text())
        assert len(recorded) == 3 and all(test in done.stdout for test in recorded)
        choices.append(recorded.keys())
    assert choices[0] == choices[1]
