"""Tests that the citation, changelog, CI workflow and Dockerfile agree with the package."""

import re
import subprocess
import sys
import tomllib

import pytest
import yaml

import signvit_jax
from tests.helpers.tiny_run import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize(
    "name", ["CITATION.cff", ".pre-commit-config.yaml", ".github/workflows/ci.yml"]
)
def test_yaml_files_parse(name):
    assert yaml.safe_load((REPOSITORY / name).read_text())


def test_the_citation_has_the_version_of_the_package():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["version"] == signvit_jax.__version__


def test_the_changelog_begins_with_the_version_of_the_package():
    first = re.search(r"^## (.*)$", (REPOSITORY / "CHANGELOG.md").read_text(), re.M)[1]
    assert first.split()[-1].strip("()") == signvit_jax.__version__.removesuffix(".dev0")


def test_the_workflow_tests_every_python_of_the_classifiers():
    matrix = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text())
    tested = matrix["jobs"]["test"]["strategy"]["matrix"]["python"]
    versions = [text.rpartition(" ")[2] for text in PROJECT["classifiers"] if ":: 3." in text]
    assert tested == versions


def test_extras_that_the_workflow_and_the_dockerfile_install_exist():
    files = [(REPOSITORY / name).read_text() for name in (".github/workflows/ci.yml", "Dockerfile")]
    extra_lists = re.findall(r"(?:\.\[|EXTRA=)([\w,-]+)", "\n".join(files))
    extras = {extra for names in extra_lists for extra in names.split(",")}
    assert {"docs", "cuda"} <= extras <= set(PROJECT["optional-dependencies"])


def test_the_files_that_the_dockerfile_copies_can_be_installed(tmp_path):
    """Run the Dockerfile's steps up to pip, without docker, in a temporary folder."""
    for line in (REPOSITORY / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY"):
            *sources, target = line.split()[1:]
            for source in sources:
                place = tmp_path / (
                    target if (REPOSITORY / source).is_dir() else f"{target}/{source}"
                )
                subprocess.run(["cp", "-r", str(REPOSITORY / source), str(place)], check=True)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    done = subprocess.run(
        [*build, f"--wheel-dir={tmp_path / 'dist'}", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_dockerfile_starts_a_command_of_the_package():
    assert 'ENTRYPOINT ["signvit"]' in (REPOSITORY / "Dockerfile").read_text()
    assert "signvit" in PROJECT["scripts"]
