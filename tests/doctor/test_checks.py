"""The checks of `signvit doctor` on fake facts: level, finding and advice."""

import dataclasses
import re

import pytest

from signvit_jax.config.files import load_config
from signvit_jax.config.schema import Config
from signvit_jax.doctor import config_fit, devices, hosts, machine, media_codecs, run_files
from signvit_jax.doctor import software as soft
from signvit_jax.doctor.findings import GIB, DeviceFacts, Finding, Request, joined
from signvit_jax.doctor.registry import CHECKS

PYTHON = soft.PythonFacts((3, 12, 1), True, "venv", "/env")
PACKAGE = soft.PackageFacts("0.2.0", "0.2.0", "wheel", "", "/env/signvit_jax", ())
PACKAGES = soft.DependencyFacts(
    ("jax>=0.11", "numpy>=2"),
    {"jax": "0.12.0", "numpy": "2.5", "jaxlib": "0.12.0"},
    {"jax": "0.12.0", "numpy": "2.5"},
    {},
)
DEVICES = DeviceFacts("gpu", ("H100",) * 2, 70 * GIB, "9.0", "0.12", 1e-3, 900, 0.1)
IDLE = devices.AcceleratorFacts(
    driver="580.65.06",
    nvidia=1,
    amd=0,
    tpu=0,
    device_files=True,
    plugins={"jax-cuda13-plugin": "0.12.0"},
    shadows=(),
    jax_platforms="",
    visible=None,
    jax_platform="cpu",
    jax_devices=1,
    in_container=False,
)
ATTENTION = devices.AttentionFacts("gpu", "cudnn", 197, 16, 64, 0.01, 2.0)
CODECS = media_codecs.CodecFacts({"h264": 75, "gif": 75}, {}, (), "19.0")
LIMITS = machine.LimitFacts(64 << 20, 65536, -1, 64, 64, 0.0)
MEMORY = machine.MemoryFacts(64 * GIB, 60 * GIB, -1, 0)
FOLDER = machine.FolderFacts("--workdir", "/w", "/", "ext4", 50 * GIB, 10**6, True, locks=True)
WORKDIR = run_files.WorkdirFacts("/w", step=9, steps=2, bytes=GIB, made_by="0.2", version="0.2")
DATA = run_files.DataFacts(
    "/d", ("signs",), {"train": 90}, clips_read=24, rate=1000.0, threads=4, eaten=3000.0
)
FIT = config_fit.FitFacts(GIB, 70 * GIB, 1, 2, "gpu")
HOSTS = hosts.HostFacts()

# Check, facts, changes of the facts, and the expected level, finding and advice (as patterns).
CASES = [
    (soft.check_python, PYTHON, {}, "ok", "3.12.1, 64-bit, in a venv", ""),
    (soft.check_python, PYTHON, {"version": (3, 11, 9)}, "bad", "3.11.9", "Python 3.12 or newer"),
    (soft.check_python, PYTHON, {"is_64_bit": False}, "bad", "32-bit", "64-bit"),
    (soft.check_python, PYTHON, {"environment": ""}, "note", "the system's", "venv"),
    (soft.check_package, PACKAGE, {"commit": "abc"}, "ok", "commit abc, wheel", ""),
    (soft.check_package, PACKAGE, {"installed": "0.1.0"}, "bad", "knows it as 0.1.0", "install it"),
    (soft.check_package, PACKAGE, {"strangers": ("/x/configs",)}, "note", "/x/configs", "--config"),
    (
        soft.check_package,
        PACKAGE,
        {"strangers": ("/x/tfds_builders",)},
        "bad",
        "imported from /x/tfds_builders",
        "another folder",
    ),
    (soft.check_dependencies, PACKAGES, {}, "ok", "2 packages, as in constraints", ""),
    (soft.check_dependencies, PACKAGES, {"constraints": {}}, "ok", "within their bounds", ""),
    (soft.check_dependencies, PACKAGES, {"requirements": ()}, "note", "not installed", "pip"),
    (
        soft.check_dependencies,
        PACKAGES,
        {"installed": {"jax": "0.12.0", "numpy": "1.26", "jaxlib": "0.12.0"}},
        "bad",
        r"too old or too new: numpy 1.26 \(needed: >=2\)",
        "pip install",
    ),
    (
        soft.check_dependencies,
        PACKAGES,
        {"installed": {"jax": "0.12.0", "jaxlib": "0.12.0"}},
        "bad",
        "missing: numpy",
        "pip install",
    ),
    (
        soft.check_dependencies,
        PACKAGES,
        {"installed": {"jax": "0.12.0", "numpy": "2.6", "jaxlib": "0.12.0"}},
        "note",
        r"1 of 2 packages .* numpy 2.6 \(tested: 2.5\)",
        "if something fails",
    ),
    (
        soft.check_dependencies,
        PACKAGES,
        {"plugins": {"jax-cuda12-plugin": "0.11.1"}},
        "bad",
        "jaxlib 0.12.0 with jax-cuda12-plugin 0.11.1",
        re.escape("pip install -U 'jax[cuda12]==0.12.0'"),
    ),
    (soft.check_dependencies, PACKAGES, {"plugins": {"jax-cuda12-pjrt": "0.12.0.1"}}, "ok", "", ""),
    (devices.check_devices, DEVICES, {}, "ok", r"2 x H100 \(gpu\), 70.0 GiB", ""),
    (devices.check_devices, DEVICES, {"difference": 0.5}, "bad", "differs from NumPy", "ECC"),
    (devices.check_devices, DEVICES, {"difference": float("nan")}, "bad", "differs", "ECC"),
    (devices.check_devices, DEVICES, {"error": "Unknown backend"}, "bad", "no device", "JAX_PLAT"),
    (
        devices.check_accelerators,
        IDLE,
        {"jax_platform": "gpu", "jax_devices": 1},
        "ok",
        "JAX uses 1 of them; driver 580",
        "",
    ),
    (
        devices.check_accelerators,
        IDLE,
        {"jax_platform": "gpu", "jax_devices": 1, "nvidia": 8},
        "note",
        "the system has 8",
        "nvidia-smi",
    ),
    (
        devices.check_accelerators,
        IDLE,
        {"plugins": {}},
        "bad",
        "no plugin",
        re.escape("signvit-jax[cuda]"),
    ),
    (
        devices.check_accelerators,
        IDLE,
        {"plugins": {}, "driver": "550.1"},
        "bad",
        "no plugin",
        re.escape("signvit-jax[cuda12]"),
    ),
    (
        devices.check_accelerators,
        IDLE,
        {"driver": "550.1"},
        "bad",
        "needs driver 580",
        re.escape("[cuda12]"),
    ),
    (
        devices.check_accelerators,
        IDLE,
        {"driver": "", "device_files": False, "in_container": True},
        "bad",
        "no driver",
        "--gpus all",
    ),
    (
        devices.check_accelerators,
        IDLE,
        {"jax_platforms": "cpu"},
        "note",
        "JAX_PLATFORMS=cpu",
        "unset",
    ),
    (devices.check_accelerators, IDLE, {"visible": ""}, "bad", "CUDA_VISIBLE_DEVICES", "unset"),
    (
        devices.check_accelerators,
        IDLE,
        {"shadows": ("/cuda/libcudnn.so.8",)},
        "bad",
        "/cuda/libcudnn.so.8",
        "unset LD_LIBRARY_PATH",
    ),
    (devices.check_accelerators, IDLE, {}, "bad", "is installed", re.escape("jax[cuda13]")),
    (devices.check_accelerators, IDLE, {"jax_platform": "", "jax_devices": 0}, "ok", "", ""),
    (
        devices.check_accelerators,
        IDLE,
        {"nvidia": 0, "driver": "", "tpu": 4, "plugins": {}},
        "bad",
        "4 TPU chips",
        re.escape("jax[tpu]"),
    ),
    (
        devices.check_accelerators,
        IDLE,
        {"nvidia": 0, "driver": "", "tpu": 4, "plugins": {"libtpu": "1"}},
        "bad",
        "4 TPU chips",
        "fuser",
    ),
    (
        devices.check_accelerators,
        IDLE,
        {"nvidia": 0, "driver": "", "amd": 2},
        "bad",
        "2 GPUs of AMD",
        "rocm",
    ),
    (devices.check_accelerators, IDLE, {"nvidia": 0, "driver": ""}, "ok", "no GPU and no TPU", ""),
    (devices.check_attention, ATTENTION, {}, "ok", "197 tokens, 16 heads of width 64", ""),
    (devices.check_attention, ATTENTION, {"platform": "cpu"}, "ok", "for GPUs of NVIDIA", ""),
    (devices.check_attention, ATTENTION, {"chosen": "recompute"}, "note", "recompute", "Ampere"),
    (devices.check_attention, ATTENTION, {"error": "no engine"}, "bad", "no engine", "=recompute"),
    (devices.check_attention, ATTENTION, {"difference": 0.3}, "bad", "differ", "=recompute"),
    (media_codecs.check_codecs, CODECS, {}, "ok", "h264, gif", ""),
    (
        media_codecs.check_codecs,
        CODECS,
        {"read": {"h264": 74}},
        "bad",
        "h264: 74 of 75 frames",
        "force-reinstall",
    ),
    (media_codecs.check_codecs, CODECS, {"errors": {"vp9": "SIGSEGV"}}, "bad", "SIGSEGV", "wheel"),
    (media_codecs.check_codecs, CODECS, {"not_written": ("vp9",)}, "note", "vp9", "signvit check"),
    (machine.check_limits, LIMITS, {}, "ok", "64 MiB free .* 64 cores usable", ""),
    (
        machine.check_limits,
        LIMITS,
        {"num_workers": 4, "prefetch_batches": 8, "batch": 32 << 20},
        "bad",
        "4 reading processes .* need about 384 MiB",
        "--shm-size=1g",
    ),
    (
        machine.check_limits,
        LIMITS,
        {"num_workers": 2, "prefetch_batches": 2, "batch": 1 << 20},
        "ok",
        "need about 4 MiB",
        "",
    ),
    (machine.check_limits, LIMITS, {"open_files": 512}, "note", "only 512 files", "ulimit -n"),
    (machine.check_limits, LIMITS, {"open_files": 64}, "bad", "only 64 files", "ulimit -n"),
    (machine.check_limits, LIMITS, {"address_space": 4 * GIB}, "bad", "4.0 GiB", "ulimit -v"),
    (machine.check_limits, LIMITS, {"cores_quota": 1.5}, "ok", "1.5 cores usable of 64", ""),
    (machine.check_limits, LIMITS, {"cores_allowed": 2}, "ok", "2 cores usable of 64", ""),
    (machine.check_memory, MEMORY, {}, "ok", "60.0 GiB of 64.0 GiB", ""),
    (
        machine.check_memory,
        MEMORY,
        {"limit": 3 * GIB, "used_of_limit": GIB},
        "note",
        "may use 3.0 GiB, 2.0 GiB left",
        "container",
    ),
    (machine.check_memory, MEMORY, {"available": GIB // 2}, "bad", "512 MiB", "end other"),
    (
        machine.check_memory,
        MEMORY,
        {"batch": 20 * GIB, "prefetch_batches": 2},
        "bad",
        "read ahead take 80.0 GiB",
        "prefetch_batches",
    ),
    (run_files.check_workdir, WORKDIR, {}, "ok", "checkpoint 9 of 1.0 GiB sound; not in use", ""),
    (run_files.check_workdir, WORKDIR, {"error": "no config.json"}, "bad", "no config.json", "run"),
    (run_files.check_workdir, WORKDIR, {"step": -1}, "note", "no checkpoint yet", "start"),
    (
        run_files.check_workdir,
        WORKDIR,
        {"damage": ("params/a: missing",)},
        "bad",
        "9 is damaged: params/a: missing",
        "the one before it",
    ),
    (
        run_files.check_workdir,
        WORKDIR,
        {"damage": ("x",), "steps": 1},
        "bad",
        "damaged",
        "no older one",
    ),
    (run_files.check_workdir, WORKDIR, {"hashed": False}, "ok", "content not compared", ""),
    (run_files.check_workdir, WORKDIR, {"unchecked": True}, "ok", "not checked", ""),
    (run_files.check_workdir, WORKDIR, {"holder": "process 7"}, "ok", "in use by process 7", ""),
    (run_files.check_workdir, WORKDIR, {"made_by": "0.1"}, "note", "by signvit-jax 0.1", "nothing"),
    (run_files.check_data, DATA, {}, "ok", "train 90 clips; 24 clips read .* 1,000 frames/s", ""),
    (run_files.check_data, DATA, {"names": ()}, "bad", "no data set in /d", "signvit build"),
    (run_files.check_data, DATA, {"names": ("a", "b")}, "note", "has a, b", "--config.data.name"),
    (run_files.check_data, DATA, {"error": "lacks 2 files"}, "bad", "lacks 2 files", ""),
    (run_files.check_data, DATA, {"damage": ("record 3: x",)}, "bad", "record 3", "build"),
    (run_files.check_data, DATA, {"eaten": 9000.0}, "note", "9,000 frames/s, more", "num_threads"),
    (config_fit.check_fit, FIT, {}, "ok", "1.0 GiB of the 70.0 GiB of each gpu", "inspect"),
    (config_fit.check_fit, FIT, {"state": 60 * GIB}, "note", "60.0 GiB", "inspect"),
    (config_fit.check_fit, FIT, {"state": 80 * GIB}, "bad", "80.0 GiB", "fsdp"),
    (config_fit.check_fit, FIT, {"wanted": 8}, "bad", "asks for 8 devices; JAX has 2", "data=-1"),
    (config_fit.check_fit, FIT, {"error": "config.mesh.fsdp is 3"}, "bad", "fsdp is 3", "mesh"),
    (hosts.check_hosts, HOSTS, {}, "ok", "one process", ""),
    (
        hosts.check_hosts,
        HOSTS,
        {"starter": "Slurm", "processes": 8, "process_id": 3},
        "ok",
        "Slurm started 8 processes, this is number 3; `train` joins them by itself",
        "",
    ),
    (hosts.check_hosts, HOSTS, {"starter": "Open MPI"}, "note", "does not join", "--coordinator"),
    (
        hosts.check_hosts,
        HOSTS,
        {"coordinator": "a:1", "reachable": "timed out"},
        "bad",
        "a:1 cannot be reached: timed out",
        "firewall",
    ),
    (
        hosts.check_hosts,
        HOSTS,
        {"coordinator": "a:1", "reachable": "refused"},
        "ok",
        "has no run yet",
        "",
    ),
    (hosts.check_hosts, HOSTS, {"clock": -40.0}, "note", "-40.0 s", "NTP"),
    (
        soft.check_extras,
        soft.ExtraFacts(("onnx",), {"cv2": "cameras: pip install x"}),
        {},
        "ok",
        "installed: onnx; not installed: cv2",
        "cv2 is for cameras: pip install x",
    ),
    (soft.check_network, soft.NetworkFacts(False), {}, "ok", "only where you give hf://", ""),
    (soft.check_network, soft.NetworkFacts(True), {}, "ok", "refused, by HF_HUB_OFFLINE", ""),
]


@pytest.mark.parametrize(
    ("check", "facts", "changes", "level", "found", "advice"),
    CASES,
    ids=[
        f"{check.__name__}-{number}-{level}"
        for number, (check, _, _, level, *_) in enumerate(CASES)
    ],
)
def test_a_check_reports_the_problem_and_what_to_do(check, facts, changes, level, found, advice):
    finding = check(dataclasses.replace(facts, **changes))
    assert finding.level == level, finding
    assert re.search(found, finding.found), finding.found
    assert re.search(advice, finding.advice), finding.advice
    # The error of a data set has its own advice.
    needs_no_advice = finding.level in ("ok", "skipped") or check is run_files.check_data
    assert needs_no_advice or finding.advice


@pytest.mark.parametrize(
    ("changes", "level", "found"),
    [
        ({}, "ok", "50.0 GiB free, ext4"),
        ({"error": "Read-only file system"}, "bad", "Read-only"),
        ({"free": GIB}, "note", "1.0 GiB free"),
        ({"free": 1 << 20}, "bad", "1 MiB free"),
        ({"inodes": 3}, "bad", "3 more files"),
        ({"locks": False}, "note", "locks keep no other process out"),
        ({"flush_seconds": 2.0}, "note", "takes 2.0 s"),
        ({"file_system": "tmpfs"}, "note", "memory, and gone"),
        ({"free": 1, "must_write": False}, "ok", ""),  # a folder that is only read needs no space
    ],
)
def test_findings_about_folders(changes, level, found):
    changed = dataclasses.replace(FOLDER, **changes)
    good = dataclasses.replace(FOLDER, use="temporary files")
    finding = machine.check_folders(machine.FoldersFacts((good, changed)))
    assert finding.level == level and found in finding.found
    assert finding.level == "ok" or finding.advice


def test_sixteen_checks_with_different_names():
    assert len({check.name for check in CHECKS}) == len(CHECKS) == 16


def test_every_check_is_in_the_table_above():
    covered = {check for check, *_ in CASES} | {machine.check_folders}
    assert {check.judge for check in CHECKS} <= covered


def test_joined_findings_begin_with_the_worst():
    both = joined("x", [Finding("", "ok", "fine"), Finding("", "bad", "broken", "repair it")])
    assert both == Finding("x", "bad", "broken; fine", "repair it")


def test_quick_skips_slow_checks():
    levels = {check.name: check.run(Request(quick=True))[0].level for check in CHECKS if check.slow}
    assert levels == dict.fromkeys(
        ("devices", "attention", "codecs", "data_set", "config"), "skipped"
    )


def test_the_shape_of_attention_is_that_of_the_vit_in_the_config():
    assert devices.attention_shape(Config()) == (197, 16, 64)
    small = load_config("small")
    tokens, heads, width = devices.attention_shape(small)
    assert heads * width == small.model.encoder.vit_hidden_dim
    assert tokens == (small.data.image_size // small.model.encoder.patch_size) ** 2 + 1
