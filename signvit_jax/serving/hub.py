"""Exports on a model hub: `hf://org/name` in place of a folder, and sending a folder there.

The packages of Hugging Face do the transport (cache, retries, tokens); they are imported, and the
network is used, only for such an address. HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME and HF_TOKEN mean
what they mean there.
"""

import dataclasses
import fnmatch
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from signvit_jax.config.schema import key_differences, without_local_paths
from signvit_jax.errors.base import SignVitError
from signvit_jax.files.local_paths import is_hub_address
from signvit_jax.runtime.exit_codes import FAILED
from signvit_jax.runtime.optional_deps import import_optional
from signvit_jax.serving.export_dir import ExportFolder, is_export

if TYPE_CHECKING:
    import huggingface_hub

log = logging.getLogger(__name__)

_FORM = "hf://ORGANIZATION/NAME, or with @REVISION (a branch, tag or commit) behind it"
_ADDRESS = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?/?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
# The files of an export. Others are neither sent nor downloaded: a report of `signvit eval`, for
# example, shows people's faces.
_FILES = (
    "export.json",
    "config.json",
    "tokenizer.json",
    "gloss_tokenizer.json",
    "calibration.json",
    "weights.safetensors",
    "*.onnx",
    "*.onnx.data",
    "*.stablehlo",
    "report.json",
    "README.md",
    "LICENSE*",
)
HUB_JSON = "hub.json"  # a file in a folder that `pull` wrote, with the address it came from
_TRANSPORT = ("httpx", "httpx2", "requests", "urllib3", "huggingface_hub", "hf_xet")
# A token, and a password in an address. Neither belongs in a message.
_SECRETS = re.compile(r"hf_[A-Za-z0-9]{8,}|(?<=://)[^/@\s]+@|(?<=Bearer )\S+")


class HubError(SignVitError):
    """A model that the hub lacks or refuses, or that is not an export."""


class HubUnreachable(HubError):
    """The hub does not answer or stopped in the middle; the same call may succeed later."""

    exit_code = FAILED


@dataclasses.dataclass(frozen=True)
class HubAddress:
    """A repository of models and a revision; None stands for its main branch."""

    repository: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str | os.PathLike) -> "HubAddress":
        """Read `hf://org/name` or `hf://org/name@revision`. Raises HubError."""
        match = _ADDRESS.fullmatch(os.fspath(text))
        if match is None:
            raise HubError(f"{os.fspath(text)!r} is not an address of a model; allowed: {_FORM}")
        return cls(match[1], match[2])

    def __str__(self) -> str:
        return f"hf://{self.repository}" + (f"@{self.revision}" if self.revision else "")


@dataclasses.dataclass(frozen=True)
class Fetched:
    """The folder of a downloaded export, and its address with the commit that it is of."""

    folder: Path
    pinned: HubAddress


def local_folder[Given](path: Given) -> Given | Path:
    """Return the folder of a model that may be on a hub; any other path unchanged.

    The one place where a model's address becomes a folder. Raises HubError and ExportError.
    """
    if isinstance(path, str | os.PathLike) and is_hub_address(path):
        return fetch(path).folder
    return path


def fetch(address: str | os.PathLike | HubAddress) -> Fetched:
    """Download an export into the cache of Hugging Face, or find it there, and check its files.

    The network is not used for a commit that is in the cache, nor if HF_HUB_OFFLINE is set. If the
    hub does not answer, what the cache has of the revision is used, with a warning. Raises HubError
    for an address without an export, HubUnreachable, and ExportError for changed files.
    """
    target = address if isinstance(address, HubAddress) else HubAddress.parse(address)
    hub = _hub()
    folder = _find_cached(target) if _COMMIT.fullmatch(target.revision or "") else None
    if folder is None and hub.constants.HF_HUB_OFFLINE:
        folder = _find_cached(target)
        if folder is None:
            raise HubError(
                f"{target} is not in the cache ({hub.constants.HF_HUB_CACHE}) and HF_HUB_OFFLINE "
                "is set; unset it, or give a model that was downloaded before"
            )
    if folder is None:
        folder = _download(target)
    export = ExportFolder(folder)
    if not export.export_json.is_file():
        raise HubError(_no_export_message(target))
    export.check_files()
    pinned = HubAddress(target.repository, folder.name)
    log.info("%s is %s", target, pinned)
    if export.manifest().format in ("onnx", "stablehlo"):
        log.warning(
            "%s holds programs, not only numbers: open it only if you would run its authors' code",
            target,
        )
    return Fetched(folder, pinned)


def pull(address: str, output: Path) -> HubAddress:
    """Download an export and copy it to the new folder `output`; return the pinned address.

    Its `hub.json` has the address that it came from. Raises HubError and ExportError.
    """
    fetched = fetch(address)
    with ExportFolder.new(output) as folder:
        for name in _names(fetched.folder, HubAddress.parse(address)):
            shutil.copyfile(fetched.folder / name, folder.path / name)  # the cache has links
        origin = {"address": address, "commit": fetched.pinned.revision}
        folder.write_text(folder.path / HUB_JSON, json.dumps(origin, indent=2) + "\n")
    return fetched.pinned


def push(folder: str | os.PathLike, address: str, *, public: bool, message: str) -> HubAddress:
    """Send an export to a repository, created if it is new; return the pinned address.

    A new repository is private unless `public`. Raises HubError for a folder that is not an export
    and for what the hub refuses, ExportError for one whose files have changed.
    """
    target = HubAddress.parse(address)
    if not is_export(folder):
        if (Path(folder) / "config.json").is_file():
            fault = "a workdir with checkpoints, and what is shared is an export"
        else:
            fault = "not an export: it has no export.json"
        raise HubError(
            f"{os.fspath(folder)} is {fault}; "
            "write one with: signvit export --workdir=RUN --format=int8 --output=DIR"
        )
    export = ExportFolder.open(folder)
    export.check_files()
    left_out = sorted(
        entry.name
        for entry in export.path.iterdir()
        if not _is_of_export(entry.name) and entry.name != HUB_JSON
    )
    if left_out:
        log.warning("not sent, because they are not files of an export: %s", ", ".join(left_out))
    _warn_of_local_paths(export)
    hub = _hub()
    if hub.constants.HF_HUB_OFFLINE:
        raise HubError("HF_HUB_OFFLINE is set, so nothing can be sent; unset it")
    api = _api()

    def send() -> "huggingface_hub.CommitInfo":
        api.create_repo(target.repository, private=not public, exist_ok=True)
        if target.revision:
            api.create_branch(target.repository, branch=target.revision, exist_ok=True)
        return api.upload_folder(
            repo_id=target.repository,
            folder_path=export.path,
            revision=target.revision,
            allow_patterns=[name for name in os.listdir(export.path) if _is_of_export(name)],
            commit_message=message,
        )

    return HubAddress(target.repository, _ask(target, send).oid)


def _warn_of_local_paths(export: ExportFolder) -> None:
    """Warn of an export that an earlier release wrote, with the paths of the run in it."""
    config = export.read_config()
    named = key_differences(config, without_local_paths(config))
    if named:
        log.warning(
            "config.json names places on this machine (%s), which will be sent; to leave them out, "
            "export the run again",
            ", ".join(f"{key} {value!r}" for key, value, _ in named),
        )


def _hub() -> ModuleType:
    import_optional("huggingface_hub.constants", "an address hf://...", HubError)
    return import_optional("huggingface_hub", "an address hf://...", HubError)


def _api() -> "huggingface_hub.HfApi":
    from signvit_jax import __version__

    return _hub().HfApi(library_name="signvit_jax", library_version=__version__)


def _find_cached(target: HubAddress) -> Path | None:
    """The complete snapshot in the cache, if there is one."""
    hub = _hub()
    try:
        folder = Path(
            hub.snapshot_download(
                target.repository,
                revision=target.revision,
                allow_patterns=list(_FILES),
                local_files_only=True,
            )
        )
    except (hub.errors.LocalEntryNotFoundError, OSError):
        return None
    return folder if ExportFolder(folder).export_json.is_file() else None


def _download(target: HubAddress) -> Path:
    api = _api()
    try:
        info = _ask(target, lambda: api.model_info(target.repository, revision=target.revision))
    except HubUnreachable as error:
        folder = _find_cached(target)
        if folder is None:
            raise
        log.warning("%s; using the cached commit %s", error, folder.name)
        return folder
    names = [sibling.rfilename for sibling in info.siblings or []]
    if "export.json" not in names:
        raise HubError(_no_export_message(target))
    return Path(
        _ask(
            target,
            lambda: api.snapshot_download(
                target.repository, revision=target.revision, allow_patterns=list(_FILES)
            ),
        )
    )


def _ask[Answer](target: HubAddress, ask: Callable[[], Answer]) -> Answer:
    """Return the hub's answer. Raises HubError or HubUnreachable, without tokens in the message."""
    hub = _hub()
    errors = hub.errors
    endpoint = hub.constants.ENDPOINT
    try:
        return ask()
    except errors.RevisionNotFoundError as error:
        raise HubError(
            f"{target}: the hub has no revision {target.revision!r} of it; "
            "give a branch, a tag or a commit"
        ) from _clean(error)
    except errors.GatedRepoError as error:
        raise HubError(
            f"{target} is gated: ask for access on its page, and set HF_TOKEN"
        ) from _clean(error)
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"{target}: {_without_secrets(endpoint)} has no such model, or does not show it to "
            "you; check the name, and for a private one set HF_TOKEN to a token that may read it "
            "(push: that may write it)"
        ) from _clean(error)
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            raise HubError(
                f"{target}: the hub refuses ({status}); set HF_TOKEN to a token that may do this"
            ) from _clean(error)
        if 400 <= status < 500 and status not in (408, 429):
            raise HubError(f"{target}: the hub refuses: {_line(error)}") from _clean(error)
        raise HubUnreachable(f"{target}: the hub failed: {_line(error)}") from _clean(error)
    except errors.HFValidationError as error:
        raise HubError(f"{target}: {_line(error)}; allowed: {_FORM}") from error
    except SignVitError:
        raise
    except Exception as error:
        # The HTTP client, and so the class of its errors, differs between their releases.
        from_transport = type(error).__module__.partition(".")[0] in _TRANSPORT
        if not (from_transport or isinstance(error, OSError)):
            raise
        raise HubUnreachable(
            f"{target}: {_without_secrets(endpoint)} could not be reached, or broke off "
            f"({type(error).__name__}: {_line(error)}); try again later, or set HF_HUB_OFFLINE=1 "
            "for what was downloaded before"
        ) from _clean(error)


def _no_export_message(target: HubAddress) -> str:
    return (
        f"{target} has no export.json, so it is not an export of signvit_jax. If it holds a "
        "workdir, its owner has to export it first: "
        "signvit export --workdir=RUN --format=int8 --output=DIR"
    )


def _names(folder: Path, target: HubAddress) -> list[str]:
    names = sorted(entry.name for entry in folder.iterdir() if _is_of_export(entry.name))
    if "export.json" not in names:
        raise HubError(_no_export_message(target))
    return names


def _is_of_export(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in _FILES)


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return _without_secrets(" ".join(lines[:2]))


def _without_secrets(text: str) -> str:
    return _SECRETS.sub("***", text)


def _clean(error: BaseException) -> BaseException | None:
    """Return an error as the cause of ours, or None if its traceback would show a secret."""
    return error if _SECRETS.search(str(error)) is None else None
