"""What the reliability tests share: the server that forks their runs, and a run that nothing happened to."""

from pathlib import Path

import pytest

# Of one test, on a machine that is busy with ten other programs. A run that hangs has a limit of its own (helpers/reliability_runs.py).
TIMEOUT_S = 1500


def pytest_collection_modifyitems(config, items):
    """The tests that start processes share a server and an undisturbed run: the short ones in one test process, with the long ones in two."""
    starting = [
        item
        for item in items
        if Path(__file__).parent in item.path.parents and "server" in item.fixturenames
    ]
    halves = 1 if config.option.markexpr == "not long" else 2
    for number, item in enumerate(starting):
        item.add_marker(pytest.mark.xdist_group(f"reliability {number % halves}"))
        item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.fixture(scope="session")
def server(trained):
    from tests.helpers.reliability_runs import Server

    server = Server(trained.cache)
    yield server
    server.close()


@pytest.fixture
def run(server, trained, tmp_path):
    """A run that has not been started."""
    from tests.helpers.reliability_runs import Run

    return Run(server, trained.config, tmp_path / "run")


@pytest.fixture(scope="session")
def undisturbed(server, trained, tmp_path_factory):
    """A finished run. Copy its workdir before changing it."""
    from tests.helpers.reliability_runs import Run

    run = Run(server, trained.config, tmp_path_factory.mktemp("undisturbed") / "run")
    assert run.go() == 0, run.said()
    return run
