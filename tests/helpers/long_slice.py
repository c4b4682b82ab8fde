"""The slice of the long tests that one commit runs, so that each of them runs sooner or later.

A pytest plugin. `--long-slice=COMMIT` deselects the long tests that are not in that commit's
slice; `--record-long=FILE` adds the seconds of all long tests that ran to a table such as
`long_seconds.json`.
"""

import collections
import hashlib
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

TABLE = Path(__file__).with_name("long_seconds.json")
BUDGET = 180.0  # seconds of all tests in a slice; two workers take at least half as long
LONGEST = 600.0  # a longer test is in no slice, so that CI ends within 25 minutes
UNKNOWN = 60.0  # seconds of a test that is not in the table
_CHOICE = pytest.StashKey[str]()


def choose(tests: Collection[str], seconds: Mapping[str, float], commit: str) -> set[str]:
    """Return the slice of a commit: tests in a random order given by its name, if they still fit.

    The first test runs even if it exceeds the budget, so that tests of several minutes run too.
    """
    order = sorted(tests, key=lambda test: hashlib.sha256(f"{commit} {test}".encode()).digest())
    chosen: set[str] = set()
    left = BUDGET
    for test in order:
        cost = seconds.get(test, UNKNOWN)
        if cost <= (left if chosen else LONGEST):
            chosen.add(test)
            left -= cost
    return chosen


def pytest_addoption(parser):
    group = parser.getgroup("long tests")
    group.addoption(
        "--long-slice", metavar="COMMIT", help="of the tests marked long, run the commit's slice"
    )
    group.addoption(
        "--record-long", metavar="FILE", type=Path, help="add the seconds of long tests to a table"
    )


@pytest.hookimpl(tryfirst=True)  # before xdist adds groups to the names of tests
def pytest_collection_modifyitems(config, items):
    if not (commit := config.getoption("--long-slice")):
        return
    tests = {item.nodeid for item in items if item.get_closest_marker("long")}
    chosen = choose(tests, json.loads(TABLE.read_text()), commit)
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in tests - chosen])
    items[:] = [item for item in items if item.nodeid not in tests - chosen]
    count = f"{len(chosen)} of {len(tests)} long tests, the slice of {commit}"
    choice = "\n  ".join([f"{count}; --long runs all:", *sorted(chosen)])
    if hasattr(config, "workeroutput"):  # a worker of xdist, whose output is not shown
        config.workeroutput["long_slice"] = choice
    else:
        config.stash[_CHOICE] = choice


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    output = getattr(node, "workeroutput", {})
    if "long_slice" in output:
        node.config.stash[_CHOICE] = output["long_slice"]


def pytest_terminal_summary(terminalreporter, config):
    if choice := config.stash.get(_CHOICE, None):
        terminalreporter.section("slice of the long tests")
        terminalreporter.write_line(choice)
    if table := config.getoption("--record-long"):
        spent = collections.defaultdict(float)
        phases = [*terminalreporter.getreports(""), *terminalreporter.getreports("passed")]
        for report in phases:  # with fixtures: a test that runs alone needs them too
            if "long" in report.keywords:
                # xdist appends the name of the group.
                spent[re.sub(r"@[\w.]+$", "", report.nodeid)] += report.duration
        known = json.loads(table.read_text()) if table.exists() else {}
        known |= {test: round(seconds, 1) for test, seconds in spent.items()}
        table.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")
