"""Probes of `signvit doctor`, on fake files of the kernel and on real folders."""

import json
import os
import re
import shutil
import socket
import time
from importlib import metadata
from pathlib import Path

import jax
import pytest

from signvit_jax.checkpoints.workdir import Workdir
from signvit_jax.checkpoints.workdir_lock import lock_workdir
from signvit_jax.config.files import load_config
from signvit_jax.config.schema import to_json
from signvit_jax.doctor import (
    at_start,
    devices,
    hosts,
    machine,
    media_codecs,
    registry,
    run_files,
    software,
)
from signvit_jax.doctor.findings import DeviceFacts, Finding, Request
from signvit_jax.doctor.registry import Check
from tests.helpers import tiny_run


def write(root: Path, **files: str) -> Path:
    """Write files below `root`. In their names "__" stands for "/", and "_DOT_" for "."."""
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def kernel(tmp_path: Path, cgroup: str, **files: str) -> Path:
    """Write files of a kernel with 64 GiB of memory, half of it available."""
    meminfo = "MemTotal: 67108864 kB\nMemAvailable: 33554432 kB\n"
    return write(tmp_path, proc__meminfo=meminfo, proc__self__cgroup=cgroup, **files)


def test_limits_of_an_outer_cgroup_count(tmp_path):
    root = kernel(
        tmp_path,
        "0::/outer/inner\n",
        sys__fs__cgroup__outer__cpu_DOT_max="150000 100000\n",
        sys__fs__cgroup__outer__inner__cpu_DOT_max="max 100000\n",
        sys__fs__cgroup__outer__memory_DOT_max=str(4 << 30),
        sys__fs__cgroup__outer__memory_DOT_current=str(3 << 30),
        sys__fs__cgroup__outer__memory_DOT_stat=f"anon 1\ninactive_file {1 << 30}\n",
    )
    assert machine.probe_limits(Request(), root).cores_quota == 1.5
    facts = machine.probe_memory(Request(), root)
    assert (facts.limit, facts.used_of_limit) == (4 << 30, 2 << 30)
    assert machine.free_memory(facts) == 2 << 30


def test_limits_of_a_cgroup_of_the_first_version(tmp_path):
    root = kernel(
        tmp_path,
        "5:memory:/job\n4:cpu,cpuacct:/job\n",
        sys__fs__cgroup__cpu__job__cpu_DOT_cfs_quota_us="200000",
        sys__fs__cgroup__cpu__job__cpu_DOT_cfs_period_us="100000",
        sys__fs__cgroup__memory__job__memory_DOT_limit_in_bytes=str(1 << 30),
        sys__fs__cgroup__memory__job__memory_DOT_usage_in_bytes="1000",
    )
    limits = machine.probe_limits(Request(), root)
    memory = machine.probe_memory(Request(), root)
    assert limits.shared_memory == 0  # there is no /dev/shm
    assert memory.limit == 1 << 30
    assert limits.cores_quota == 2.0


def test_a_limit_of_max_counts_as_none(tmp_path):
    root = kernel(tmp_path, "0::/\n", sys__fs__cgroup__memory_DOT_max="max")
    assert machine.probe_memory(Request(), root).limit == -1
    assert machine.free_memory(machine.probe_memory(Request(), root)) == 32 << 30
    assert machine.probe_limits(Request(), root).cores_quota == 0.0


def test_a_gpu_is_seen_without_jax(tmp_path, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{tmp_path / 'cuda'}:")
    root = write(
        tmp_path,
        sys__bus__pci__devices__a__vendor="0x10de\n",
        sys__bus__pci__devices__a__class="0x030200\n",
        sys__bus__pci__devices__b__vendor="0x10de\n",
        sys__bus__pci__devices__b__class="0x040300\n",  # the sound of a graphics card
        sys__bus__pci__devices__c__vendor="0x1ae0\n",
        sys__bus__pci__devices__c__class="0x120000\n",
        proc__driver__nvidia__version="NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15\n",
        cuda__libcudnn_DOT_so_DOT_8="",
    )
    facts = devices.probe_accelerators(Request(devices=DeviceFacts("cpu", ("cpu",))), root)
    assert (facts.nvidia, facts.tpu, facts.driver) == (1, 1, "550.54.15")
    assert facts.shadows == (str(root / "cuda/libcudnn.so.8"),)
    finding = devices.check_accelerators(facts)
    assert finding.level in ("bad", "note")  # a note if the tests run with JAX_PLATFORMS=cpu


def test_a_platform_without_devices_is_an_error(monkeypatch):
    def refused(*_: object) -> list[object]:
        raise AssertionError

    monkeypatch.setattr(jax, "local_devices", refused)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    facts = devices.probe_devices(Request())
    assert facts.error == "AssertionError; JAX_PLATFORMS=cpu"
    assert devices.check_devices(facts).level == "bad"
    skipped = devices.check_attention(devices.probe_attention(Request(devices=facts)))
    assert (skipped.level, skipped.found) == ("skipped", "JAX has no device")


def test_later_checks_do_not_use_a_device_that_failed(monkeypatch):
    failing = Check("devices", fail, devices.check_devices)
    monkeypatch.setattr(registry, "DEVICES", failing)
    later = Check("later", lambda request: request, lambda request: Finding("", "ok", ""))
    _, (_, request) = registry.run_checks(Request(), 5, (failing, later))
    assert isinstance(request, Request) and request.devices is not None
    assert "the driver is confused" in request.devices.error


def test_installed_packages_have_the_versions_of_their_metadata():
    facts = software.probe_dependencies(Request())
    assert {"jax", "numpy", "av", "jaxlib"} <= facts.installed.keys()
    assert facts.installed == {name: metadata.version(name) for name in facts.installed}
    assert software.check_dependencies(facts).level in ("ok", "note")


def test_the_commit_is_read_without_git(tmp_path):
    digest = "0123456789abcdef"
    write(tmp_path / "plain", _DOT_git__HEAD="ref: refs/heads/main\n")
    assert software.commit_of(tmp_path / "plain") == ""
    write(tmp_path / "plain", _DOT_git__refs__heads__main=digest)
    assert software.commit_of(tmp_path / "plain") == digest[:12]
    packed = tmp_path / "packed" / ".git"
    packed.mkdir(parents=True)
    (packed / "HEAD").write_text("ref: refs/heads/x")
    (packed / "packed-refs").write_text(f"# pack-refs\n{digest} refs/heads/x\n")
    assert software.commit_of(tmp_path / "packed") == digest[:12]
    assert software.commit_of(tmp_path / "none") == ""


# The command does this in a child process without threads, so it gives no such warning.
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_folders_are_written_to_and_left_empty(tmp_path):
    facts = machine.folder_facts("--workdir", str(tmp_path / "a/b"), must_write=True, trying=True)
    assert facts.place == str(tmp_path) and facts.error == "" and facts.locks is True
    assert facts.free > 0 and list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_reported(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(machine, "write_atomically", full)
    facts = machine.folder_facts("--workdir", str(tmp_path), must_write=True, trying=True)
    assert facts.error == "No space left on device" and list(tmp_path.iterdir()) == []


def test_every_drawn_video_is_read():
    facts = media_codecs.probe_codecs(Request())
    assert set(facts.read.values()) == {media_codecs.FRAMES} and not facts.errors


def test_use_and_damage_of_a_workdir_are_found(trained, tmp_path, monkeypatch):
    shutil.copytree(trained.workdir, tmp_path / "run")
    request = Request(workdir=str(tmp_path / "run"))
    facts = run_files.probe_workdir(request)
    assert facts.step > 0 and not facts.damage and not facts.holder and not facts.error
    assert facts.made_by == facts.version  # train writes it into run.log
    newest = tmp_path / "run" / "checkpoints" / str(facts.step)
    files = (path for path in (newest / "params").rglob("*") if path.is_file())
    damaged = next(path for path in files if path.stat().st_size > 10)
    damaged.write_bytes(b"x" + damaged.read_bytes()[1:])
    with lock_workdir(Workdir.open(tmp_path / "run")):
        facts = run_files.probe_workdir(request)
    assert facts.holder.startswith(f"process {os.getpid()} on {socket.gethostname()}")
    assert run_files.check_workdir(facts).level == "bad"
    assert "content changed" in facts.damage[0]
    monkeypatch.setattr(run_files, "_MAX_HASHED", 0)  # compare only sizes
    facts = run_files.probe_workdir(request)
    assert not facts.hashed and not facts.damage
    damaged.write_bytes(b"x")
    assert "1 bytes instead of" in run_files.probe_workdir(request).damage[0]


def test_a_lock_of_another_host_is_only_noted(tmp_path):
    lock = tmp_path / ".lock"
    lock.write_text(json.dumps({"pid": 1, "host": "elsewhere", "since": "now"}))
    assert run_files.lock_holder(lock) == "process 1 on elsewhere since now, or it was killed"
    lock.write_text(json.dumps({"pid": 1, "host": socket.gethostname(), "since": "now"}))
    assert run_files.lock_holder(lock) == ""  # the process was killed
    assert run_files.lock_holder(tmp_path / "none") == ""


def test_a_data_set_is_read_and_its_damage_found(trained, tmp_path):
    config = load_config(str(trained.config))
    request = Request(data_dir=str(trained.data_dir), config_json=to_json(config))
    facts = run_files.probe_data(request)
    assert facts.splits == tiny_run.CLIPS and facts.clips_read == 12 and facts.rate > 0
    assert facts.damage == () and run_files.check_data(facts).level == "ok"
    shutil.copytree(trained.data_dir, tmp_path / "data")
    index = next((tmp_path / "data").rglob("train.index.jsonl"))
    shard = next((tmp_path / "data").rglob("*train.array_record*"))
    copied = Request(data_dir=str(tmp_path / "data"), config_json=to_json(config))
    shard.rename(shard.with_suffix(".gone"))
    facts = run_files.probe_data(copied)
    assert "lacks 1 of its files" in facts.error
    assert index.exists() and run_files.check_data(facts).level == "bad"


def test_clock_and_coordinator_of_several_processes_are_checked(tmp_path):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        environment = {
            "SLURM_STEP_NUM_TASKS": "4",
            "SLURM_PROCID": "2",
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        }
        facts = hosts.probe_hosts(Request(workdir=str(tmp_path)), environment)
        assert (facts.starter, facts.processes, facts.process_id) == ("Slurm", 4, 2)
        assert facts.reachable == "refused" and abs(facts.clock) < 1
        server.listen()
        assert hosts.probe_hosts(Request(), environment).reachable == "yes"
    pod = {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}
    assert hosts.probe_hosts(Request(), pod) == hosts.HostFacts("a TPU pod", 2, 1)
    assert hosts.probe_hosts(Request(), {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}) == (
        hosts.HostFacts()
    )


def crash(request: Request) -> DeviceFacts:
    print("about to crash", flush=True)
    os.abort()


def hang(request: Request) -> DeviceFacts:
    time.sleep(60)
    raise AssertionError


def fail(request: Request) -> DeviceFacts:
    raise OSError("the driver is confused")


@pytest.mark.parametrize(
    ("probe", "isolated", "found"),
    [
        (crash, True, r"could not be checked: its process crashed \(SIGABRT\): ...about to crash"),
        (hang, True, "no answer in 1 s"),
        (hang, False, "no answer in 1 s"),
        (fail, True, "OSError: the driver is confused"),
        (fail, False, "OSError: the driver is confused"),
    ],
)
def test_a_probe_that_crashes_hangs_or_fails_is_a_bad_finding(probe, isolated, found):
    check = Check("devices", probe, devices.check_devices, isolated=isolated)
    start = time.monotonic()
    seconds = 1 if probe is hang else 30
    finding, facts = check.run(Request(), seconds)
    assert facts is None and finding.level == "bad" and finding.advice
    assert re.search(found, finding.found), finding.found
    assert time.monotonic() - start < 25


def test_the_checks_at_the_start_are_cheap_and_log_bad_findings(tmp_path, caplog, monkeypatch):
    config = load_config("small")
    at_start.check_start(config, tmp_path)  # the first call imports
    start = time.process_time()
    assert at_start.check_start(config, tmp_path) == []
    assert time.process_time() - start < 0.05
    monkeypatch.setattr(machine, "_FEW_INODES", 1 << 62)
    with caplog.at_level("INFO"):
        at_start.log_start(config, tmp_path)
    facts, warning = (record.getMessage() for record in caplog.records)
    assert facts.startswith("run by signvit-jax ") and "jaxlib" in facts and " cores, " in facts
    assert warning.startswith("folders: ") and "what to do: delete files" in warning


def test_an_error_in_the_checks_at_the_start_does_not_end_the_run(tmp_path, caplog, monkeypatch):
    def fail() -> str:
        raise ValueError("odd machine")

    monkeypatch.setattr(at_start, "run_facts", fail)
    at_start.log_start(load_config("small"), tmp_path)
    assert "are left out: ValueError('odd machine')" in caplog.text
