"""Exports on a model hub: a server on loopback stands in for the hub of Hugging Face."""

import json
import os
import shutil
import subprocess
import sys

import huggingface_hub
import pytest
from huggingface_hub import constants

from signvit_jax import load_translator
from signvit_jax.commands import dispatch, translate
from signvit_jax.commands import eval as evaluation
from signvit_jax.commands.sharing import pull_main, push_main
from signvit_jax.exporting.writing import write_export
from signvit_jax.inference.loading import read_source
from signvit_jax.inference.trained_model import load_trained
from signvit_jax.runtime import optional_deps
from signvit_jax.serving.export_dir import ExportError, ExportFolder, ExportManifest
from signvit_jax.serving.hub import HubAddress, HubError, HubUnreachable, fetch, local_folder
from tests.helpers import tiny_run
from tests.helpers.hub_server import TOKEN, HubServer

NAME = "someone/signs"
ADDRESS = f"hf://{NAME}"


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """Return an export of the tiny run that has only numbers, no programs."""
    path = tmp_path_factory.mktemp("exports") / "model"
    with tiny_run.light_jax(trained.cache):
        model = load_trained(trained.workdir)
        with ExportFolder.new(path) as folder:
            manifest = ExportManifest("safetensors", "none", model.step, dict(model.validation))
            write_export(model, folder, manifest, tiny_run.no_batches)
            folder.write_text(folder.model_card, "---\nlibrary_name: signvit_jax\n---\n# Signs\n")
    return path


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Yield a hub without models; the cache of downloads is empty."""
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            server.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        yield server


def files_of(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def shared(hub, exported):
    """Put the export on the hub; return its commit."""
    return hub.commit(NAME, files_of(exported))


@pytest.mark.parametrize(
    ("text", "repository", "revision"),
    [
        ("hf://a/b", "a/b", None),
        ("hf:/a/b", "a/b", None),  # as pathlib spells it
        ("hf://a-1/b.c_d/", "a-1/b.c_d", None),
        ("hf://a/b@main", "a/b", "main"),
        ("hf://a/b@refs/pr/1", "a/b", "refs/pr/1"),
    ],
)
def test_an_address_names_a_repository_and_a_revision(text, repository, revision):
    assert HubAddress.parse(text) == HubAddress(repository, revision)


@pytest.mark.parametrize("text", ["hf://a", "hf://", "hf://a/b/c", "hf://a/b@", "hf://ä/b", "a/b"])
def test_an_invalid_address_is_an_error(text):
    with pytest.raises(HubError, match="allowed: hf://ORGANIZATION/NAME"):
        HubAddress.parse(text)


@pytest.mark.usefixtures("light_jax")
def test_a_model_is_loaded_by_its_address(trained, shared, exported, caplog):
    caplog.set_level("INFO")
    clip = trained.video(3)
    assert load_translator(ADDRESS).translate(clip) == load_translator(exported).translate(clip)
    assert f"{ADDRESS} is {ADDRESS}@{shared}" in caplog.text


@pytest.mark.usefixtures("light_jax")
def test_commands_take_an_address(trained, shared, tmp_path, capsys):
    assert tiny_run.command(translate.main, f"--workdir={ADDRESS}", trained.video(3)) == 0
    assert capsys.readouterr().out.startswith(str(trained.video(3)))
    assert tiny_run.command(evaluation.main, f"--workdir={ADDRESS}", "--calibrate") == 2
    message = capsys.readouterr().err
    assert "is on a hub; copy the model first" in message and "--output" not in message
    assert tiny_run.command(evaluation.main, f"--workdir={ADDRESS}") == 2
    assert f"signvit pull {ADDRESS} DIR" in capsys.readouterr().err
    flags = [f"--output={tmp_path / 'test.json'}", f"--data_dir={trained.data_dir}"]
    flags.append("--decode=greedy")
    assert tiny_run.command(evaluation.main, f"--workdir={ADDRESS}", *flags) == 0
    assert (tmp_path / "test.json").is_file()


def test_a_run_can_start_from_an_address(shared):
    assert read_source(ADDRESS).path == f"{ADDRESS}@{shared}"


def test_pull_copies_the_export_unchanged(hub, shared, exported, tmp_path, capsys):
    output = tmp_path / "pulled"
    assert tiny_run.command(pull_main, ADDRESS, output) == 0
    pulled = files_of(output)
    origin = json.loads(pulled.pop("hub.json"))
    assert pulled == files_of(exported) and not (output / "weights.safetensors").is_symlink()
    assert origin == {"address": ADDRESS, "commit": shared}
    assert f"{ADDRESS}@{shared}" in capsys.readouterr().out
    assert tiny_run.command(pull_main, ADDRESS, output) == 2  # nothing is overwritten
    assert "exists already" in capsys.readouterr().err


def test_push_then_pull_is_the_same_export(hub, exported, tmp_path, capsys):
    folder = shutil.copytree(exported, tmp_path / "mine")
    (folder / "eval").mkdir()
    (folder / "eval" / "test.html").write_text("people")
    (folder / "notes.txt").write_text("mine")
    assert tiny_run.command(push_main, folder, ADDRESS) == 0
    printed = capsys.readouterr()
    assert f"{ADDRESS}@{hub.branches[NAME]['main']}" in printed.out
    uploaded = hub.commits[NAME][hub.branches[NAME]["main"]]
    assert uploaded.keys() - {".gitattributes"} == files_of(exported).keys()
    assert hub.private[NAME] is True
    fetched = files_of(fetch(ADDRESS).folder)
    assert fetched == files_of(exported)


def test_push_lists_files_that_it_does_not_send(hub, exported, tmp_path, caplog):
    folder = shutil.copytree(exported, tmp_path / "mine")
    (folder / "notes.txt").write_text("mine")
    assert tiny_run.command(push_main, folder, ADDRESS, "--public") == 0
    assert "not sent, because they are not files of an export: notes.txt" in caplog.text
    assert hub.private[NAME] is False


def test_push_warns_of_paths_in_an_older_export(trained, hub, exported, tmp_path, caplog):
    folder = shutil.copytree(exported, tmp_path / "older")
    assert tiny_run.command(push_main, folder, ADDRESS) == 0
    assert "names places on this machine" not in caplog.text
    shutil.copyfile(trained.workdir / "config.json", folder / "config.json")
    manifest = json.loads((folder / "export.json").read_text())
    manifest["files"] = {}  # as earlier releases wrote it
    (folder / "export.json").write_text(json.dumps(manifest))
    assert tiny_run.command(push_main, folder, ADDRESS) == 0
    assert f"data.data_dir '{trained.data_dir}'" in caplog.text


def test_push_to_a_branch_leaves_the_main_one(hub, shared, exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "mine")
    (folder / "README.md").write_text("# Other\n")
    assert tiny_run.command(push_main, folder, f"{ADDRESS}@second") == 0
    assert hub.branches[NAME]["main"] == shared != hub.branches[NAME]["second"]
    assert (fetch(f"{ADDRESS}@second").folder / "README.md").read_text() == "# Other\n"
    assert (fetch(ADDRESS).folder / "README.md").read_text() != "# Other\n"


def test_a_workdir_is_exported_before_it_is_shared(trained, hub, tmp_path, capsys):
    assert tiny_run.command(push_main, trained.workdir, ADDRESS) == 2
    assert "a workdir with checkpoints" in capsys.readouterr().err
    assert tiny_run.command(push_main, tmp_path, ADDRESS) == 2
    assert "not an export: it has no export.json" in capsys.readouterr().err
    assert hub.requests == []
    hub.commit(NAME, {"config.json": b"{}"})
    with pytest.raises(HubError, match="its owner has to export it first"):
        fetch(ADDRESS)


def test_a_changed_export_is_not_sent(hub, exported, tmp_path, capsys):
    folder = shutil.copytree(exported, tmp_path / "mine")
    (folder / "config.json").write_text("{}")
    assert tiny_run.command(push_main, folder, ADDRESS) == 2
    assert "config.json differ from the digests" in capsys.readouterr().err
    assert hub.requests == []


def test_an_unknown_repository_is_an_error(hub):
    with pytest.raises(HubError, match="has no such model, or does not show it to you") as caught:
        fetch(ADDRESS)
    assert caught.value.exit_code == 2


def test_an_unknown_revision_is_an_error(shared):
    with pytest.raises(HubError, match="no revision 'v9'"):
        fetch(f"{ADDRESS}@v9")
    with pytest.raises(HubError, match="no revision"):
        fetch(f"{ADDRESS}@{'0' * 40}")


def test_a_refusal_mentions_the_token_without_its_value(hub, shared, monkeypatch, capsys, exported):
    hub.fault = "401"
    with pytest.raises(HubError, match="HF_TOKEN"):
        fetch(ADDRESS)
    hub.fault = ""
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrong")
    assert tiny_run.command(push_main, exported, ADDRESS) == 2
    printed = capsys.readouterr()
    assert "HF_TOKEN" in printed.err and "hf_wrong" not in printed.err + printed.out


def test_secrets_are_not_in_messages(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://me:password@127.0.0.1:1")
    with pytest.raises(HubUnreachable) as caught:
        fetch(ADDRESS)
    assert "password" not in str(caught.value) and "127.0.0.1" in str(caught.value)


def test_a_server_error_of_the_hub_has_exit_code_1(hub, shared):
    hub.fault = "500"
    with pytest.raises(HubUnreachable) as caught:
        fetch(ADDRESS)
    assert caught.value.exit_code == 1


def test_a_hub_that_does_not_answer_is_an_error(hub, shared):
    hub.stop()
    with pytest.raises(HubUnreachable, match="could not be reached"):
        fetch(ADDRESS)


def test_if_the_hub_is_unreachable_the_cache_is_used_and_logged(hub, shared, caplog):
    fetch(ADDRESS)
    hub.stop()
    assert fetch(ADDRESS).pinned.revision == shared
    assert f"using the cached commit {shared}" in caplog.text


def test_a_file_that_ends_early_is_an_error(hub, shared):
    hub.fault = "cut"
    with pytest.raises(HubUnreachable, match="broke off"):
        fetch(ADDRESS)
    hub.fault = ""
    assert fetch(ADDRESS).pinned.revision == shared


def test_a_file_with_another_digest_is_an_error(hub, exported):
    files = files_of(exported)
    files["tokenizer.json"] = files["tokenizer.json"].replace(b"ann", b"bnn")
    hub.commit(NAME, files)
    with pytest.raises(ExportError, match=r"tokenizer\.json differ from the digests"):
        fetch(ADDRESS)
    del files["tokenizer.json"]
    hub.commits.clear()
    hub.branches.clear()
    hub.commit(NAME, files)
    with pytest.raises(ExportError, match=r"tokenizer\.json \(missing\)"):
        fetch(ADDRESS)


def test_offline_mode_sends_no_request_and_uses_the_cache(hub, shared, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"is not in the cache .* HF_HUB_OFFLINE"):
        fetch(ADDRESS)
    assert hub.requests == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    fetch(ADDRESS)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    num_requests = len(hub.requests)
    assert fetch(ADDRESS).pinned.revision == shared
    assert len(hub.requests) == num_requests


def test_a_pinned_commit_in_the_cache_needs_no_network(hub, shared):
    pinned = fetch(ADDRESS).pinned
    hub.commit(NAME, {"README.md": b"# Newer"})
    hub.requests.clear()
    assert fetch(str(pinned)).pinned == pinned
    assert hub.requests == []
    assert fetch(ADDRESS).pinned != pinned  # the branch has moved


def test_a_local_path_sends_no_request(hub, exported):
    assert local_folder(exported) is exported
    assert local_folder("a,b") == "a,b"
    assert hub.requests == []


def test_an_export_of_an_earlier_release_is_loaded_unchecked(hub, exported, caplog):
    files = files_of(exported)
    manifest = json.loads(files["export.json"])
    del manifest["files"]
    hub.commit(NAME, files | {"export.json": json.dumps(manifest).encode()})
    fetch(ADDRESS)
    assert "has no digests" in caplog.text


def test_programs_from_a_hub_give_a_warning(hub, exported, caplog):
    files = files_of(exported)
    manifest = json.loads(files["export.json"]) | {"format": "stablehlo"}
    hub.commit(NAME, files | {"export.json": json.dumps(manifest).encode()})
    fetch(ADDRESS)
    assert "holds programs, not only numbers" in caplog.text


def test_the_error_of_a_missing_package_has_its_install_command(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(optional_deps.importlib, "import_module", missing)
    with pytest.raises(HubError, match=r"needs huggingface_hub.* install it with: pip install"):
        fetch(ADDRESS)


def test_local_paths_do_not_import_huggingface_hub():
    program = (
        "import sys; import signvit_jax.inference.translator; import signvit_jax.serving.hub; "
        "sys.exit('huggingface_hub' in sys.modules and 'tokenizers' not in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(tiny_run.REPOSITORY)}
    assert subprocess.run([sys.executable, "-c", program], env=environment).returncode == 0


def test_pull_and_push_are_commands():
    assert {"pull", "push"} <= dispatch.COMMANDS.keys()
    assert huggingface_hub.__version__
