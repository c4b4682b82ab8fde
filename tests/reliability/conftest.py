"""Fixtures of the reliability tests: the server that forks their runs, and an undisturbed run."""

from pathlib import Path

import pytest

# For one test on a busy machine. Runs that hang have a shorter limit (helpers/reliability_runs.py).
TIMEOUT_S = 1500


def pytest_collection_modifyitems(config, items):
    """Put tests that start processes into one worker, or into two if long tests run too.

    The tests of a worker share a server and an undisturbed run.
    """
    process_tests = [
        item
        for item in items
        if Path(__file__).parent in item.path.parents and "server" in item.fixturenames
    ]
    workers = 1 if config.option.markexpr == "not long" else 2
    for number, item in enumerate(process_tests):
        item.add_marker(pytest.mark.xdist_group(f"reliability {number % workers}"))
        item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.fixture(scope="session")
def server(trained):
    from tests.helpers.reliability_runs import Server

    server = Server(trained.cache)
    yield server
    server.close()


@pytest.fixture
def run(server, trained, tmp_path):
    """A run that is not started yet."""
    from tests.helpers.reliability_runs import Run

    return Run(server, trained.config, tmp_path / "run")


@pytest.fixture(scope="session")
def undisturbed(server, trained, tmp_path_factory):
    """A finished run. Copy its workdir before changing it."""
    from tests.helpers.reliability_runs import Run

    run = Run(server, trained.config, tmp_path_factory.mktemp("undisturbed") / "run")
    assert run.go() == 0, run.messages()
    return run
