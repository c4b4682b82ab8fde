"""Errors of missing packages, and the commands in them that install the packages."""

import shlex
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from signvit_jax.runtime.optional_deps import (
    import_optional,
    install_command,
    optional_packages,
)

PYPROJECT = (Path(__file__).parents[2] / "pyproject.toml").read_text()


class MissingError(Exception):
    pass


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("flatbuffers", r"pip install 'flatbuffers>=\d+'$"),
        ("onnxruntime", r"pip install 'onnxruntime>=[\d.]+' 'onnx>=[\d.]+' .*'einops>=[\d.]+'$"),
        ("argcomplete", r"pip install '?argcomplete(>=[\d.]+')?$"),
        ("cv2", r"pip install 'opencv-python-headless>=[\d.]+'$"),
        ("torch", r"pip install 'torch>=[\d.]+'$"),
        ("apache_beam", r"pip install 'apache-beam>=[\d.]+'$"),
    ],
)
def test_the_error_of_a_missing_package_shows_how_to_install_it(monkeypatch, module, command):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingError, match=rf"--format=some needs {module} \(.*{command}"):
        import_optional(module, "--format=some", MissingError)


def test_jax2onnx_is_installed_after_its_extra_without_dependencies():
    command = "pip install --no-deps jax2onnx==0.17.1"
    assert install_command("jax2onnx") == f"{install_command('onnx')} && {command}"
    assert command in PYPROJECT


def test_packages_for_planning_are_installed_without_cuda():
    extra, cudnn = install_command("libtpu").split(" && ")
    assert extra.startswith("pip install 'jax[cuda12-local,tpu]")
    assert cudnn == "pip install --no-deps 'nvidia-cudnn-cu12>=9.10,<10'"
    assert cudnn in PYPROJECT


def test_a_submodule_is_installed_with_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    with pytest.raises(MissingError, match=r"needs onnxruntime\.quantization .*'onnxruntime>="):
        import_optional("onnxruntime.quantization", "--format=onnx", MissingError)


def test_without_metadata_the_command_names_the_package(monkeypatch):
    def not_installed(name: str):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", not_installed)
    assert install_command("cv2") == "pip install opencv-python-headless"
    assert install_command("jax2onnx") == "pip install --no-deps jax2onnx==0.17.1"


@pytest.mark.parametrize("module", ["apache_beam", "cv2", "onnx", "flatbuffers", "torch"])
def test_the_command_lists_requirements_that_pip_can_parse(module):
    program, action, *requirements = shlex.split(install_command(module))
    assert (program, action) == ("pip", "install") and requirements
    assert all(Requirement(requirement).specifier for requirement in requirements)


def test_every_optional_package_has_a_purpose_and_a_command():
    packages = optional_packages()
    assert {"wandb", "starlette", "onnx"} <= packages.keys()
    assert all(package.purpose for package in packages.values())
    assert packages["wandb"].install == "pip install wandb"
