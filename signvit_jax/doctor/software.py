"""Checks of the installed software: Python, this package, its dependencies and its extras."""

import contextlib
import dataclasses
import importlib.util
import os
import re
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

import signvit_jax
from signvit_jax.doctor.findings import Finding, Request, joined
from signvit_jax.runtime.optional_deps import OptionalPackage, optional_packages

_DISTRIBUTION = "signvit-jax"
_OLDEST_PYTHON = (3, 12)
_PACKAGE = Path(signvit_jax.__file__).parent
_CONSTRAINTS = _PACKAGE.parent / "constraints.txt"
_SHOWN = 5  # entries of a list in a message
# Packages of JAX for accelerators, whose release must be that of jaxlib.
_PLUGINS = (
    "jax-cuda12-plugin",
    "jax-cuda12-pjrt",
    "jax-cuda13-plugin",
    "jax-cuda13-pjrt",
)


@dataclasses.dataclass(frozen=True)
class PythonFacts:
    """The interpreter. `environment`: "venv", "conda" or "" for the system's Python."""

    version: tuple[int, ...]
    is_64_bit: bool
    environment: str
    prefix: str


def probe_python(request: Request) -> PythonFacts:
    del request
    in_venv = sys.prefix != sys.base_prefix
    return PythonFacts(
        version=sys.version_info[:3],
        is_64_bit=sys.maxsize > 2**32,
        environment="venv" if in_venv else "conda" if os.environ.get("CONDA_PREFIX") else "",
        prefix=sys.prefix,
    )


def check_python(facts: PythonFacts) -> Finding:
    version = ".".join(map(str, facts.version))
    where = f"in a {facts.environment} environment" if facts.environment else "the system's"
    found = f"Python {version}, {'64' if facts.is_64_bit else '32'}-bit, {where} ({facts.prefix})"
    oldest = ".".join(map(str, _OLDEST_PYTHON))
    if tuple(facts.version[:2]) < _OLDEST_PYTHON:
        return Finding("python", "bad", found, f"install Python {oldest} or newer")
    if not facts.is_64_bit:
        return Finding("python", "bad", found, "JAX has no 32-bit release; install a 64-bit Python")
    if not facts.environment:
        return Finding(
            "python",
            "note",
            found,
            "packages of others can change ours: python3 -m venv .venv && "
            "source .venv/bin/activate, and install there",
        )
    return Finding("python", "ok", found)


@dataclasses.dataclass(frozen=True)
class PackageFacts:
    """What is installed of this package.

    `installed`: the version that pip knows, "" if none. `kind`: "editable", "wheel" or "source
    tree". `strangers`: folders of other packages that have the names of our packages.
    """

    version: str
    installed: str
    kind: str
    commit: str
    folder: str
    strangers: tuple[str, ...]


def probe_package(request: Request) -> PackageFacts:
    del request
    try:
        distribution = metadata.distribution(_DISTRIBUTION)
        installed = distribution.version
        origin = distribution.read_text("direct_url.json") or ""
        kind = "editable" if re.search(r'"editable":\s*true', origin) else "wheel"
    except metadata.PackageNotFoundError:
        installed, kind = "", "source tree"
    return PackageFacts(
        version=signvit_jax.__version__,
        installed=installed,
        kind=kind,
        commit=commit_of(_PACKAGE.parent),
        folder=str(_PACKAGE),
        strangers=tuple(_strangers()),
    )


def commit_of(checkout: Path) -> str:
    """The first 12 digits of the commit that a Git checkout is at; "" where there is none.

    Git itself is not needed.
    """
    try:
        git, common = _git_folders(checkout)
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref:"):
            return head[:12]
        name = head.partition(":")[2].strip()
        for folder in (git, common):
            if (folder / name).is_file():
                return (folder / name).read_text(encoding="utf-8").strip()[:12]
        packed = (common / "packed-refs").read_text(encoding="utf-8")
        listed = (line.split() for line in packed.splitlines() if line.endswith(f" {name}"))
        return next((digest[:12] for digest, *_ in listed), "")
    except (OSError, ValueError):
        return ""


def _git_folders(checkout: Path) -> tuple[Path, Path]:
    """The Git folder of a checkout, and the one with the branches: another one for a worktree."""
    git = checkout / ".git"
    if git.is_file():  # of a worktree: "gitdir: FOLDER"
        git = checkout / git.read_text(encoding="utf-8").partition(":")[2].strip()
    if not (git / "commondir").is_file():
        return git, git
    return git, git / (git / "commondir").read_text(encoding="utf-8").strip()


def _strangers() -> list[str]:
    """Folders of packages that are imported in place of ours, or instead of `configs/`."""
    folders = []
    for name in ("tfds_builders", "configs"):
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            continue
        places = [*(spec.submodule_search_locations or ())] if spec else []
        folders += [place for place in places if Path(place).parent != _PACKAGE.parent]
    return folders


def check_package(facts: PackageFacts) -> Finding:
    commit = f", commit {facts.commit}" if facts.commit else ""
    found = f"signvit-jax {facts.version}{commit}, {facts.kind}, in {facts.folder}"
    builders = [place for place in facts.strangers if Path(place).name == "tfds_builders"]
    if builders:
        return Finding(
            "signvit",
            "bad",
            f"{found}; `tfds_builders` is imported from {builders[0]}, which is not ours",
            "start commands from another folder, or remove that package: `signvit build` would run "
            "its code",
        )
    if facts.installed and facts.installed != facts.version:
        return Finding(
            "signvit",
            "bad",
            f"{found}; pip knows it as {facts.installed}",
            "install it again: pip install -e . -c constraints.txt (requirements may have changed)",
        )
    if facts.strangers:
        return Finding(
            "signvit",
            "note",
            f"{found}; another package is called `configs`: {facts.strangers[0]}",
            "nothing, unless a config file of yours imports from `configs`: presets are given by "
            "name (--config=small)",
        )
    return Finding("signvit", "ok", found)


@dataclasses.dataclass(frozen=True)
class DependencyFacts:
    """Direct dependencies: requirements, installed versions, and those tested with.

    `constraints`: the versions of constraints.txt; empty where the file is not there, as with a
    wheel. `plugins`: JAX's packages for accelerators that are installed.
    """

    requirements: tuple[str, ...]
    installed: dict[str, str]
    constraints: dict[str, str]
    plugins: dict[str, str]


def probe_dependencies(request: Request) -> DependencyFacts:
    del request
    try:
        listed = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        listed = []
    requirements = tuple(line for line in listed if "extra ==" not in line)
    names = [Requirement(line).name for line in requirements]
    versions = installed_versions((*names, "jaxlib", *_PLUGINS))
    return DependencyFacts(
        requirements=requirements,
        installed={name: version for name, version in versions.items() if name not in _PLUGINS},
        constraints=_constraints(),
        plugins={name: version for name, version in versions.items() if name in _PLUGINS},
    )


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """The installed version of each package by its name; packages that are missing are left out.

    They are taken from the names of the folders NAME-VERSION.dist-info, because reading the
    metadata of each package takes milliseconds.
    """
    listed: dict[str, str] = {}
    for folder in sys.path:
        with contextlib.suppress(OSError):
            for entry in os.scandir(folder or "."):
                name, _, version = entry.name.removesuffix(".dist-info").partition("-")
                if version and entry.name.endswith(".dist-info"):
                    listed.setdefault(_plain(name), version)
    versions = {name: listed.get(_plain(name)) or _version(name) for name in names}
    return {name: version for name, version in versions.items() if version}


def _version(name: str) -> str:
    """The version of a package that was installed in another way."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _constraints() -> dict[str, str]:
    try:
        lines = _CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.partition("==") for line in lines if not line.startswith("#") and "==" in line)
    return {_plain(name): version.strip() for name, _, version in pairs}


def _plain(name: str) -> str:
    """A package's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def check_dependencies(facts: DependencyFacts) -> Finding:
    if not facts.requirements:
        return Finding(
            "packages",
            "note",
            "signvit-jax is not installed, so its requirements are not known",
            "pip install -e . -c constraints.txt",
        )
    findings = []
    missing, wrong, other = _differing_packages(facts)
    install = "pip install -e . -c constraints.txt" if facts.constraints else "pip install again"
    if missing:
        findings.append(Finding("", "bad", f"missing: {_first_few(missing)}", install))
    if wrong:
        findings.append(Finding("", "bad", f"too old or too new: {_first_few(wrong)}", install))
    if mixed := _mixed_jax(facts):
        findings.append(mixed)
    if other:
        findings.append(
            Finding(
                "",
                "note",
                f"{len(other)} of {len(facts.requirements)} packages differ from the versions "
                f"tested with: {_first_few(other)}",
                f"if something fails: {install}",
            )
        )
    if not findings:
        tested = (
            "as in constraints.txt"
            if facts.constraints
            else "within their bounds; constraints.txt, with the versions tested, is not here"
        )
        findings.append(Finding("", "ok", f"{len(facts.requirements)} packages, {tested}"))
    return joined("packages", findings)


def _differing_packages(facts: DependencyFacts) -> tuple[list[str], list[str], list[str]]:
    """Packages that are missing, outside their bounds, and of other versions than those tested."""
    missing, wrong, other = [], [], []
    for line in facts.requirements:
        requirement = Requirement(line)
        version = facts.installed.get(requirement.name, "")
        tested = facts.constraints.get(_plain(requirement.name), "")
        if not version:
            missing.append(requirement.name)
        elif not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} (needed: {requirement.specifier})")
        elif tested and version != tested:
            other.append(f"{requirement.name} {version} (tested: {tested})")
    return missing, wrong, other


def _mixed_jax(facts: DependencyFacts) -> Finding | None:
    """A finding if JAX's packages are of different releases: JAX then finds no device."""
    jax, jaxlib = facts.installed.get("jax", ""), facts.installed.get("jaxlib", "")
    others = {
        name: version
        for name, version in facts.plugins.items() | {("jax", jax)}
        if version and jaxlib and _release(version) != _release(jaxlib)
    }
    if not others:
        return None
    listed = ", ".join(f"{name} {version}" for name, version in sorted(others.items()))
    cuda = "cuda13" if any("cuda13" in name for name in facts.plugins) else "cuda12"
    extra = f"jax[{cuda}]" if facts.plugins else "jax"
    return Finding(
        "",
        "bad",
        f"jaxlib {jaxlib} with {listed}: they belong to different releases of JAX",
        f"pip install -U '{extra}=={jax}'",
    )


def _release(version: str) -> tuple[int, ...]:
    """The three numbers of a release of JAX; plugins may have a fourth."""
    try:
        return Version(version).release[:3]
    except InvalidVersion:
        return ()


def _first_few(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


@dataclasses.dataclass(frozen=True)
class ExtraFacts:
    """Optional packages: those that are here by module, and what the others would be for."""

    present: tuple[str, ...]
    missing: dict[str, str]  # module -> what it is for, and the command that installs it


def probe_extras(request: Request) -> ExtraFacts:
    del request
    packages: dict[str, OptionalPackage] = optional_packages()
    present = [module for module in packages if importlib.util.find_spec(module) is not None]
    return ExtraFacts(
        present=tuple(present),
        missing={
            module: f"{package.purpose}: {package.install}"
            for module, package in packages.items()
            if module not in present
        },
    )


def check_extras(facts: ExtraFacts) -> Finding:
    """Nothing is wrong with an extra that is not installed: it is not even a note."""
    here = ", ".join(facts.present) or "none"
    absent = ", ".join(facts.missing) or "none"
    commands = "; ".join(f"{module} is for {text}" for module, text in facts.missing.items())
    return Finding("extras", "ok", f"installed: {here}; not installed: {absent}", commands)


@dataclasses.dataclass(frozen=True)
class NetworkFacts:
    """Settings that decide whether a command may ask a model hub."""

    hub_offline: bool


def probe_network(request: Request) -> NetworkFacts:
    del request
    return NetworkFacts(os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"))


def check_network(facts: NetworkFacts) -> Finding:
    hub = "refused, by HF_HUB_OFFLINE" if facts.hub_offline else "only where you give hf://..."
    return Finding(
        "network",
        "ok",
        "this check and all commands connect to nothing, except processes that train together with "
        f"each other; a model hub: {hub}, in pull and in push",
    )
