"""What the reliability tests share: the server that forks their runs, and a run that nothing happened to."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


def pytest_collection_modifyitems(items):
    """One test process for all of them: they share the server and the undisturbed run."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("reliability"))


@pytest.fixture(scope="session")
def server(trained):
    from runs import Server

    server = Server(trained.cache)
    yield server
    server.close()


@pytest.fixture
def run(server, trained, tmp_path):
    """A run that has not been started."""
    from runs import Run

    return Run(server, trained.config, tmp_path / "run")


@pytest.fixture(scope="session")
def undisturbed(server, trained, tmp_path_factory):
    """A finished run. Copy its workdir before changing it."""
    from runs import Run

    run = Run(server, trained.config, tmp_path_factory.mktemp("undisturbed") / "run")
    assert run.go(seconds=250) == 0, run.said()
    return run
