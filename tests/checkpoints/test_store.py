"""Tests that checkpoints are complete or absent, and that damage is detected before use."""

import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
import types
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from signvit_jax.checkpoints import manifest
from signvit_jax.checkpoints.save_failures import save_failure
from signvit_jax.checkpoints.store import (
    CheckpointDamaged,
    CheckpointError,
    CheckpointMismatch,
    CheckpointMissing,
    CheckpointReader,
    CheckpointStore,
)
from signvit_jax.runtime.exit_codes import FAILED, USAGE

# A chain like that of training; its state has every kind of node: counts, moments and partitions.
OPTIMIZER = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.scale_by_adam(),
    optax.add_decayed_weights(0.1),
    optax.partition(
        {
            "encoder": optax.scale_by_learning_rate(lambda count: 0.1),
            "rest": optax.scale_by_learning_rate(0.2),
        },
        lambda params: {name: "encoder" if name == "encoder" else "rest" for name in params},
    ),
)


def params_of(step, width=6):
    """Return parameters that differ from step to step."""
    random = np.random.default_rng(step)
    kernel = jnp.asarray(random.standard_normal((width, 4)), jnp.float32)
    return {
        "encoder": {
            "0": {"kernel": kernel, "bias": jnp.asarray(random.standard_normal(4), jnp.bfloat16)}
        },
        "head": {"kernel": kernel[:2] + 1},
    }


def state_of(step, width=6):
    """Return (parameters, optimizer state after one update, so that it is not all zeros)."""
    params = params_of(step, width)
    gradients = jax.tree.map(lambda x: x * 0.5, params)
    _, opt_state = OPTIMIZER.update(gradients, OPTIMIZER.init(params), params)
    return params, opt_state


def abstract(tree):
    """Return the shapes and types of a tree's arrays, placed on one device."""
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


TARGETS = tuple(abstract(tree) for tree in state_of(0))  # (parameters, optimizer state)


def iterator():
    """Return a data iterator at its beginning."""
    return iter(grain.MapDataset.range(1000).shuffle(seed=3).to_iter_dataset())


def save_steps(folder, steps, *, keep_last=10, losses=None):
    """Save checkpoints with the given steps and validation losses; return the folder."""
    loss_of_step = dict(zip(steps, losses)) if losses else {}
    store = CheckpointStore(folder, keep_last)
    for step in steps:
        store.save(
            step,
            *state_of(step),
            {"epoch": step},
            metrics={"loss": loss_of_step[step]} if step in loss_of_step else None,
        )
    store.close()
    return folder


def assert_same(a, b):
    """Compare two trees: structure, shapes, types and values."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(
        lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y), strict=True), a, b
    )


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """Checkpoints of steps 1 and 2, with data positions and averaged weights.

    Tests that change files use the fixture `folder`, which is a copy.
    """
    folder = tmp_path_factory.mktemp("two") / "checkpoints"
    store = CheckpointStore(folder, 10)
    data = iterator()
    for step in (1, 2):
        next(data)
        store.save(
            step,
            *state_of(step),
            {"epoch": step, "note": "ü"},
            data,
            ema=params_of(100 + step),
            metrics={"loss": 3.0 - step},
        )
    store.close()
    return folder


@pytest.fixture
def folder(two_steps, tmp_path):
    """A copy of `two_steps` that the test may change."""
    return Path(shutil.copytree(two_steps, tmp_path / "checkpoints"))


def test_a_restored_state_and_data_position_are_bit_exact(two_steps):
    uninterrupted, resumed = iterator(), iterator()
    for _ in range(2):
        next(uninterrupted)
    restored = CheckpointStore(two_steps).restore(*TARGETS, ema=TARGETS[0], data_iterator=resumed)
    assert restored.step == 2
    assert restored.meta == {"epoch": 2, "note": "ü"}
    assert restored.metrics == {"loss": 1.0}
    params, opt_state = state_of(2)
    assert_same(restored.params, params)
    assert_same(restored.opt_state, opt_state)
    assert_same(restored.ema, params_of(102))
    assert [next(resumed) for _ in range(5)] == [next(uninterrupted) for _ in range(5)]


def test_a_reader_gives_numpy_parameters_without_a_target(two_steps):
    restored = CheckpointReader(two_steps).restore_params("last", prefer_ema=False)
    assert (restored.step, restored.averaged) == (2, False)
    assert_same(restored.params, jax.tree.map(np.asarray, params_of(2)))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(restored.params))


def test_a_reader_gives_averaged_parameters_as_the_target_describes(two_steps):
    averaged = CheckpointReader(two_steps).restore_params("last", TARGETS[0])
    assert averaged.averaged
    assert_same(averaged.params, params_of(102))
    assert isinstance(averaged.params["head"]["kernel"], jax.Array)


def test_reading_changes_nothing_in_the_folder(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    CheckpointReader(folder).restore_params()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_training_steps_during_a_save_do_not_change_the_checkpoint(tmp_path):
    # A training step overwrites donated buffers while Orbax may still write the checkpoint.
    params = {str(i): jnp.full((500, 1000), float(i)) for i in range(8)}
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    store = CheckpointStore(tmp_path / "checkpoints")
    params = step(params)
    store.save(1, params, (jnp.ones(3),), {})
    for _ in range(10):
        params = step(params)
    jax.block_until_ready(params)
    store.close()
    saved = CheckpointReader(tmp_path / "checkpoints").restore_params().params
    assert all((saved[str(i)] == i + 1).all() for i in range(8))


def test_the_last_n_and_the_best_are_kept(tmp_path):
    folder = save_steps(
        tmp_path / "c",
        [1, 2, 3, 4, 5, 6],
        keep_last=2,
        losses=[5.0, 1.0, 3.0, float("nan"), 4.0, 2.0],
    )
    assert CheckpointReader(folder).steps() == [2, 5, 6]
    assert CheckpointReader(folder).best_step() == 2  # NaN is never best
    assert CheckpointReader(folder, higher_is_better=True).best_step() == 5
    assert CheckpointReader(folder, best_metric="bleu4").best_step() is None


@pytest.mark.parametrize("higher_is_better", [False, True])
def test_the_later_of_equal_checkpoints_is_the_best(tmp_path, higher_is_better):
    folder = save_steps(
        tmp_path / "c", [1, 2, 3, 4], keep_last=4, losses=[0.0, 0.0, 0.0, float("nan")]
    )
    reader = CheckpointReader(folder, higher_is_better=higher_is_better)
    assert reader.best_step() == reader.restore_params("best").step == 3


def test_the_best_checkpoint_survives_a_restart(tmp_path):
    folder = tmp_path / "c"
    save_steps(folder, [1, 2], keep_last=1, losses=[1.0, 2.0])
    save_steps(folder, [3, 4], keep_last=1, losses=[3.0, 0.5])
    assert CheckpointReader(folder).steps() == [4]
    save_steps(folder, [5, 6], keep_last=1, losses=[0.7, 0.8])
    assert CheckpointReader(folder).steps() == [4, 6]
    assert CheckpointReader(folder).restore_params("best").step == 4
    assert CheckpointReader(folder).restore_params("last").step == 6


def test_older_steps_are_deleted_only_when_the_new_one_is_final(tmp_path, monkeypatch):
    folder = save_steps(tmp_path / "c", [1])
    seen = []
    original = manifest.write_manifest

    def write_manifest(step_folder):
        seen.append((step_folder.name, CheckpointReader(folder).steps()))
        original(step_folder)

    monkeypatch.setattr("signvit_jax.checkpoints.store.write_manifest", write_manifest)
    save_steps(folder, [2], keep_last=1)
    # Just before the rename: step 2 has its temporary name and no manifest, and step 1 exists.
    assert seen == [("2.orbax-checkpoint-tmp", [1])]
    assert CheckpointReader(folder).steps() == [2]


# Files of Orbax in the checkpoint of step 2 that restoring does not read.
NOT_NEEDED = ("2/_CHECKPOINT_METADATA", "2/commit_success.txt")


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def largest_file(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def fill_with_zeros(path):
    path.write_bytes(bytes(path.stat().st_size))


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10  # one bit of the byte in the middle
    path.write_bytes(content)


DAMAGES = [
    pytest.param(truncate, id="truncated", marks=pytest.mark.long),
    pytest.param(fill_with_zeros, id="zeroed", marks=pytest.mark.long),
    pytest.param(flip_bit, id="one_bit_flipped"),
    pytest.param(Path.unlink, id="deleted", marks=pytest.mark.long),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_any_damaged_file_is_found_or_does_not_matter(two_steps, tmp_path, caplog, damage):
    files = sorted(p.relative_to(two_steps) for p in (two_steps / "2").rglob("*") if p.is_file())
    assert len(files) > 20
    saved = {step: (*state_of(step), params_of(100 + step)) for step in (1, 2)}
    for number, name in enumerate(files):  # damage one file at a time
        folder = Path(shutil.copytree(two_steps, tmp_path / str(number)))
        damage(folder / name)
        if name.as_posix() not in NOT_NEEDED:
            with pytest.raises(CheckpointDamaged, match=f"checkpoint 2 .*{name.name}"):
                CheckpointStore(folder, strict=True).restore(*TARGETS)
            assert (folder / "2").is_dir()
        caplog.clear()
        restored = CheckpointStore(folder).restore(
            *TARGETS, ema=TARGETS[0], data_iterator=iterator()
        )
        parts = (restored.params, restored.opt_state, restored.ema)
        for part, expected in zip(parts, saved[restored.step]):
            assert_same(part, expected)
        if restored.step == 2:
            assert name.as_posix() in (*NOT_NEEDED, "2/manifest.json")
        else:
            assert "checkpoint 2" in caplog.text and "/".join(name.parts[1:]) in caplog.text
            assert (folder / "2.damaged").is_dir() and CheckpointReader(folder).steps() == [1]


def test_a_damaged_optimizer_state_does_not_stop_evaluation(folder):
    flip_bit(largest_file(folder / "2" / "opt_state"))
    assert CheckpointReader(folder).restore_params("last").step == 2
    flip_bit(largest_file(folder / "2" / "ema"))
    assert CheckpointReader(folder).restore_params("best").step == 1


def test_if_all_checkpoints_are_damaged_the_run_does_not_start(folder):
    for step in (1, 2):
        truncate(folder / str(step) / "params" / "_METADATA")
    for _ in range(2):  # a second start, as by a batch system, must fail in the same way
        with pytest.raises(
            CheckpointDamaged, match=r"(?s)no checkpoint in .* can be used.*params/_METADATA"
        ) as caught:
            CheckpointStore(folder).restore(*TARGETS)
        assert caught.value.exit_code == FAILED


def test_a_damaged_run_does_not_restart_from_a_converted_model(folder):
    store = CheckpointStore(folder, 10)
    store.save(0, params_of(0), None, {"converted": True}, wait=True)
    for step in (1, 2):
        truncate(folder / str(step) / "params" / "_METADATA")
    with pytest.raises(
        CheckpointDamaged, match=r"(?s)no checkpoint in .* can be used.*  1: params/_METADATA"
    ):
        store.restore(*TARGETS)


def test_a_step_without_manifest_is_used_if_it_can_be_read(folder, caplog):
    (folder / "2" / "manifest.json").unlink()
    assert CheckpointStore(folder).restore(*TARGETS).step == 2
    assert "could not be checked" in caplog.text
    shutil.rmtree(folder / "2" / "opt_state")
    assert CheckpointStore(folder).restore(*TARGETS).step == 1


def test_a_damaged_step_can_be_saved_again(folder):
    truncate(folder / "2" / "params" / "_METADATA")
    store = CheckpointStore(folder)
    assert store.restore(*TARGETS).step == 1
    for seed in (22, 23):
        store.save(2, *state_of(seed), {}, wait=True)
        assert_same(store.restore(*TARGETS).params, params_of(seed))
        truncate(folder / "2" / "params" / "_METADATA")
        assert store.restore(*TARGETS).step == 1
    assert {"2.damaged", "2.damaged-2", "2.damaged-3"} < {path.name for path in folder.iterdir()}


def test_foreign_files_are_ignored_and_kept(folder):
    (folder / "notes.txt").write_text("mine")
    (folder / "7").write_text("mine")
    for name in ("3", "12abc", "lost+found", "007", "2.backup"):
        (folder / name).mkdir()
        (folder / name / "file").write_text("mine")
    store = CheckpointStore(folder, keep_last=1)
    assert store.steps() == [1, 2]
    assert store.restore(*TARGETS).step == 2
    for step in (3, 7, 8):
        store.save(step, *state_of(step), {}, metrics={"loss": 9.0})
    store.close()
    assert store.steps() == [2, 8]
    for name in (
        "notes.txt",
        "7.foreign",
        "3.foreign/file",
        "12abc/file",
        "lost+found/file",
        "007/file",
        "2.backup/file",
    ):
        assert (folder / name).read_text() == "mine"


def test_a_second_save_of_a_step_replaces_the_first(folder):
    store = CheckpointStore(folder)
    store.save(2, *state_of(2), {"epoch": 2, "evaluated": True}, metrics={"loss": 0.1}, wait=True)
    restored = store.restore(*TARGETS)
    assert (restored.step, restored.meta["evaluated"], restored.metrics) == (2, True, {"loss": 0.1})
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]


def test_a_kill_while_replacing_keeps_the_old_or_the_new_step(folder):
    # The files as a kill before the new step 2 was final leaves them: only the old step exists.
    (folder / "2").rename(folder / "2.replaced")
    assert CheckpointStore(folder).restore(*TARGETS).step == 2
    # The files as a kill after the new step 2 was final leaves them: both exist.
    shutil.copytree(folder / "2", folder / "2.replaced")
    assert CheckpointStore(folder).steps() == [1, 2]
    assert not (folder / "2.replaced").exists()


def test_remains_of_a_killed_save_are_deleted(folder):
    (folder / "3.orbax-checkpoint-tmp" / "params").mkdir(parents=True)
    store = CheckpointStore(folder)
    assert store.steps() == [1, 2]
    store.save(4, *state_of(4), {}, wait=True)
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "4"]


def test_a_different_model_is_refused_with_the_differences(two_steps):
    other = tuple(abstract(tree) for tree in state_of(0, width=8))
    for restore in (
        lambda: CheckpointStore(two_steps).restore(*other),
        lambda: CheckpointReader(two_steps).restore_params("last", other[0]),
    ):
        with pytest.raises(
            CheckpointMismatch,
            match=r"different model: 1 of 3 arrays .*\n"
            r"  encoder/0/kernel: saved \(6, 4\) float32, now \(8, 4\) float32",
        ) as caught:
            restore()
        assert caught.value.exit_code == USAGE
    assert CheckpointReader(two_steps).steps() == [1, 2]


def test_a_different_optimizer_is_refused(two_steps):
    with pytest.raises(CheckpointMismatch, match=r"different optimizer.*\n.*saved nothing, now"):
        other = abstract(optax.sgd(0.1, momentum=0.9).init(params_of(0)))
        CheckpointStore(two_steps).restore(TARGETS[0], other)


def test_one_process_can_use_the_data_position_of_two(folder):
    # Without a manifest, the changed name of a file is not taken for damage.
    (folder / "2" / "manifest.json").unlink()
    path = folder / "2" / "data_iterator" / "process_0-of-1.json"
    path.rename(path.with_name("process_0-of-2.json"))
    data, uninterrupted = iterator(), iterator()
    CheckpointStore(folder).restore(*TARGETS, data_iterator=data)
    first_three = [next(uninterrupted) for _ in range(3)]
    assert next(data) == first_three[2]  # two were read before the save
    path.with_name("process_0-of-2.json").unlink()
    with pytest.raises(CheckpointMismatch, match="without a data position"):
        CheckpointStore(folder).restore(*TARGETS, data_iterator=data)


def test_a_later_format_is_refused(folder):
    path = folder / "2" / "meta" / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    manifest.write_manifest(folder / "2")
    with pytest.raises(CheckpointMissing, match="format 99"):
        CheckpointReader(folder).restore_params("last")


def test_a_step_of_a_later_format_is_not_the_best(folder):
    assert CheckpointReader(folder).best_step() == 2
    path = folder / "2" / "meta" / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    reader = CheckpointReader(folder)
    assert reader.best_step() == 1 and reader.meta_value(2, "note") is None


def test_a_missing_checkpoint_is_reported(tmp_path):
    assert CheckpointReader(tmp_path / "nothing").latest_step() is None
    with pytest.raises(CheckpointMissing, match="no checkpoint in"):
        CheckpointReader(tmp_path / "nothing").restore_params()
    with pytest.raises(CheckpointMissing, match=r"no checkpoint of step 5 in .*; there are: none"):
        CheckpointStore(tmp_path / "c").restore(*TARGETS, step=5)


def test_a_missing_step_is_reported_with_the_existing_ones(two_steps):
    with pytest.raises(CheckpointMissing, match=r"no checkpoint of step 5 in .*; there are: 1, 2"):
        CheckpointReader(two_steps).restore_params(step=5)
    assert CheckpointReader(two_steps).restore_params(step=1).step == 1


def test_more_than_five_differences_are_counted(tmp_path):
    store = CheckpointStore(tmp_path / "c")
    store.save(1, {str(number): jnp.zeros(2) for number in range(7)}, (jnp.ones(3),), {}, wait=True)
    target = {
        str(number): jax.ShapeDtypeStruct((3 if number else 2,), np.float32) for number in range(7)
    }
    with pytest.raises(
        CheckpointMismatch,
        match=r"6 of 7 arrays of params differ:\n"
        r"(  \d: saved \(2,\) float32, now \(3,\) float32\n){5}  \.\.\. and 1 more\n",
    ):
        CheckpointReader(tmp_path / "c").restore_params("last", target)
    store.close()


def test_at_most_five_damaged_files_are_reported(folder, caplog):
    files = [
        path
        for path in (folder / "2").rglob("*")
        if path.is_file() and path.name != "manifest.json"
    ]
    assert len(files) > 6
    for path in files:
        truncate(path)
    assert CheckpointReader(folder).restore_params("last").step == 1
    assert caplog.text.count("bytes instead of") == 5


@pytest.mark.parametrize("after_a_save", [False, True])
def test_a_renamed_folder_is_recreated_and_saved_to(folder, tmp_path, caplog, after_a_save):
    store = CheckpointStore(folder, keep_last=2)
    if after_a_save:
        store.save(3, *state_of(3), {}, wait=True)
    # The folder may be renamed more than once.
    for number, (first, second) in enumerate([(4, 6), (5, 7)], 1):
        folder.rename(tmp_path / f"renamed{number}")
        store.save(first, *state_of(first), {}, metrics={"loss": 5.0})
        store.save(second, *state_of(second), {}, wait=True)
        assert store.steps() == [first, second]
        warning = f"{folder} is gone, renamed or deleted during the run; it is recreated"
        assert caplog.text.count(warning) == 1
        caplog.clear()
    store.close()
    assert_same(store.restore(*TARGETS).params, params_of(7))
    assert CheckpointReader(tmp_path / "renamed1").restore_params("best").step == 2


def test_the_next_save_works_after_a_rename_during_a_save(folder, tmp_path, monkeypatch, caplog):
    def rename(_):
        folder.rename(tmp_path / "renamed")
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    store = CheckpointStore(folder)
    with monkeypatch.context() as patch:
        patch.setattr("signvit_jax.checkpoints.store.write_manifest", rename)
        store.save(3, *state_of(3), {})
        with pytest.raises(
            CheckpointError,
            match=r"checkpoint 3 could not be saved.*"
            r"the folder is gone, renamed or deleted during the run",
        ):
            store.wait()
        (tmp_path / "renamed").rename(folder)
        store.save(3, *state_of(3), {})
        while folder.is_dir():
            time.sleep(0.01)
    store.save(4, *state_of(4), {}, wait=True)
    assert store.steps() == [4] and "checkpoint 3 could not be saved" in caplog.text
    store.close()


# Without `wait` too: the store looks at the folder before it begins to write.
@pytest.mark.parametrize("wait", [False, True])
def test_a_folder_that_cannot_be_recreated_raises_a_checkpoint_error(folder, tmp_path, wait):
    store = CheckpointStore(folder)
    folder.rename(tmp_path / "renamed")
    folder.write_text("a file in its place")
    with pytest.raises(
        CheckpointError, match=r"checkpoint 3 could not be saved to .*: the folder is gone"
    ):
        store.save(3, *state_of(3), {}, wait=wait)


REASONS = [
    (errno.ENOSPC, "disk is full"),
    (errno.EROFS, "disk is read-only"),
    (errno.EDQUOT, "your disk quota"),
    (errno.EFBIG, "a file grew beyond the allowed size"),
    (errno.EACCES, "no permission to write there"),
    (errno.ESTALE, "network disk lost the folder"),
    (errno.EIO, "does not answer"),
]


@pytest.mark.parametrize(
    ("code", "reason"), REASONS, ids=[errno.errorcode[code] for code, _ in REASONS]
)
def test_the_call_after_a_failed_background_save_raises_its_error(
    folder, monkeypatch, code, reason
):
    def fail(_):
        raise OSError(code, os.strerror(code))

    store = CheckpointStore(folder, keep_last=1)
    monkeypatch.setattr("signvit_jax.checkpoints.store.write_manifest", fail)
    store.save(3, *state_of(3), {})
    with pytest.raises(
        CheckpointError, match=rf"checkpoint 3 .* {reason}.*Checkpoints still there: 1, 2"
    ):
        store.save(4, *state_of(4), {})
    monkeypatch.undo()
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]
    assert_same(store.restore(*TARGETS).params, params_of(2))
    store.save(5, *state_of(5), {}, wait=True)
    assert store.steps() == [2, 5]  # 2 is the best
    store.close()


def python(code, *arguments, devices=1, before=""):
    """Return keyword arguments for `subprocess.run` to run `code` in a Python of its own.

    `code` can use the names of this module. `arguments` are its sys.argv[1:]. `devices`: the number
    of CPU devices. `before`: code that runs before this module is imported.
    """
    script = "\n".join(
        [
            "import sys",
            textwrap.dedent(before),
            "from tests.checkpoints.test_store import *",
            textwrap.dedent(code),
        ]
    )
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    return {
        "args": [sys.executable, "-c", script, *map(str, arguments)],
        "env": environment,
        "text": True,
    }


def test_a_failed_second_save_keeps_the_step_and_gives_the_reason(folder, monkeypatch):
    def refuse(_):
        raise OSError(errno.EROFS, "Read-only file system")

    rmtree = shutil.rmtree

    def refuse_unless_errors_are_ignored(path, ignore_errors=False):
        if not ignore_errors:
            refuse(path)
        rmtree(path, ignore_errors=True)

    store = CheckpointStore(folder)
    with monkeypatch.context() as patch:
        patch.setattr("signvit_jax.checkpoints.store.write_manifest", refuse)
        patch.setattr(shutil, "rmtree", refuse_unless_errors_are_ignored)
        store.save(2, *state_of(22), {})
        with pytest.raises(
            CheckpointError, match=r"the disk is read-only\. Checkpoints still there: 1, 2"
        ):
            store.wait()
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]
    assert_same(store.restore(*TARGETS).params, params_of(2))


def test_a_save_whose_checkpoint_is_missing_is_an_error(folder):
    store = CheckpointStore(folder)
    store.save(3, *state_of(3), {})
    store._manager.wait_until_finished()
    (folder / "3").rename(folder / "3.elsewhere")
    with pytest.raises(
        CheckpointError, match=r"checkpoint 3 could not be saved to .*it did not become final"
    ):
        store.wait()


@pytest.mark.parametrize(
    ("files", "free_files", "free_bytes", "reason"),
    [
        (1, 0, 2**21, "the disk takes no more files (no inode is free)"),
        (1000, 0, 2**21, "the disk takes no more files (no inode is free)"),
        (1000, 99, 2**20 + 1, "the disk takes no more files (no inode is free)"),
        (1000, 100, 2**21, "the disk is full"),
        (1000, 0, 2**20, "the disk is full"),
        (0, 0, 2**30, "the disk is full"),  # a file system that counts no inodes
    ],
)
def test_a_lack_of_inodes_is_not_reported_as_a_full_disk(
    tmp_path, monkeypatch, files, free_files, free_bytes, reason
):
    found = types.SimpleNamespace(
        f_files=files, f_favail=free_files, f_bavail=free_bytes, f_frsize=1
    )
    monkeypatch.setattr(os, "statvfs", lambda _: found)
    assert save_failure(OSError(errno.ENOSPC, "No space left on device"), tmp_path).startswith(
        reason
    )


def test_unknown_errors_are_reported_by_type_and_first_line(tmp_path):
    assert save_failure(ValueError("  first\nsecond"), tmp_path) == "ValueError: first"
    assert save_failure(ValueError(""), tmp_path) == "ValueError: no message"


@pytest.mark.parametrize("process", [0, 1])
@pytest.mark.parametrize(
    # The damage on process 0 (None: no manifest), and the number that it sends to the others.
    ("found", "sent"),
    [([], 0), (["a: missing", "b: missing"], 2), (None, -1)],
    ids=["no damage", "two damaged files", "no manifest"],
)
def test_all_processes_get_the_damage_that_process_0_finds(
    folder, monkeypatch, process, found, sent
):
    def find_damage(*_):
        assert process == 0
        if found is None:
            raise manifest.ManifestMissing
        return found

    def broadcast(count):
        assert process or count == sent
        return np.int32(sent)

    reader = CheckpointReader(folder)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: process)
    monkeypatch.setattr("signvit_jax.checkpoints.reader.find_damage", find_damage)
    monkeypatch.setattr(
        "signvit_jax.checkpoints.reader.multihost_utils.broadcast_one_to_all", broadcast
    )
    damage = reader._damage(2, None)
    knows_files = process == 0 or not found
    assert damage == (found if knows_files else ["reported by process 0"] * 2)


@pytest.mark.parametrize("process", [0, 1])
def test_other_processes_wait_for_a_change_of_the_folder(tmp_path, monkeypatch, process):
    store = CheckpointStore(tmp_path / "c")
    done = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: process)
    monkeypatch.setattr(
        "signvit_jax.checkpoints.store.multihost_utils.sync_global_devices",
        lambda _: done.append("wait"),
    )
    store._on_first_process(lambda: done.append("change"))
    assert done == (["change", "wait"] if process == 0 else ["wait"])


def test_a_store_creates_its_folder_and_parents(tmp_path, caplog):
    store = CheckpointStore(tmp_path / "a" / "b")
    store.save(1, *state_of(1), {}, wait=True)
    store.close()
    assert CheckpointReader(tmp_path / "a" / "b").steps() == [1] and not caplog.text


def test_a_closed_store_leaves_no_thread(tmp_path):
    before = set(threading.enumerate())
    save_steps(tmp_path / "c", [1, 2])
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=20)  # on a busy machine the thread may need time to end
        assert not thread.is_alive()


def test_wrong_arguments_are_refused(two_steps):
    with pytest.raises(ValueError, match="keep_last is 0; allowed: an integer >= 1"):
        CheckpointStore(two_steps, 0)
    with pytest.raises(ValueError, match="which is 'first'; allowed: 'best', 'last'"):
        CheckpointReader(two_steps).restore_params("first")


def test_three_checkpoints_are_kept_by_default(tmp_path):
    store = CheckpointStore(tmp_path / "c")
    for step in range(1, 6):
        store.save(step, *state_of(step), {})
    store.close()
    assert store.steps() == [3, 4, 5]


def test_a_damaged_older_step_does_not_stop_a_save(folder):
    for name in ("_CHECKPOINT_METADATA", "params/_METADATA", "meta/meta.json"):
        (folder / "2" / name).write_bytes(b"\x80")
    store = CheckpointStore(folder, 10)
    store.save(3, *state_of(3), {}, wait=True)
    store.close()
    assert store.steps() == [1, 2, 3]


def test_restore_waits_for_a_save_in_progress(folder):
    store = CheckpointStore(folder)
    store.save(3, *state_of(3), {})
    assert store.restore(*TARGETS).step == 3
    store.close()


def test_the_latest_step_is_the_highest(two_steps):
    assert CheckpointReader(two_steps).latest_step() == 2


def test_up_to_five_differences_are_all_listed(tmp_path):
    store = CheckpointStore(tmp_path / "c")
    store.save(1, {str(number): jnp.zeros(2) for number in range(5)}, None, {}, wait=True)
    store.close()
    target = {str(number): jax.ShapeDtypeStruct((3,), np.float32) for number in range(5)}
    with pytest.raises(
        CheckpointMismatch,
        match=r"5 of 5 arrays of params differ:\n(  \d: saved .*\n){5}Use the config",
    ):
        CheckpointReader(tmp_path / "c").restore_params("last", target)


def test_a_checkpoint_records_its_format(two_steps):
    assert json.loads((two_steps / "2" / "meta" / "meta.json").read_text())["format"] == 1


def test_a_full_disk_ends_with_one_line_and_the_older_checkpoint(folder):
    # A limit of the file size stands for a full disk: the kernel refuses to write more than 20 kB,
    # in TensorStore's C++ as well as in Python.
    code = """
        import resource, signal
        from signvit_jax.runtime.exit_codes import run_command
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        def main():
            store = CheckpointStore(sys.argv[1])
            params = {"a": jax.random.normal(jax.random.key(0), (200, 200))}
            store.save(3, params, (jnp.ones(3),), {})
            store.close()
        sys.exit(run_command(main))
    """
    result = subprocess.run(**python(code, folder), capture_output=True, timeout=250)
    assert result.returncode == FAILED
    assert "Traceback" not in result.stderr.splitlines()[-1]
    assert "error: checkpoint 3 could not be saved" in result.stderr
    assert "beyond the allowed size" in result.stderr
    assert CheckpointStore(folder).restore(*TARGETS).step == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_a_clear_error(folder):
    folder.chmod(0o555)
    try:
        store = CheckpointStore(folder)
        with pytest.raises(CheckpointError, match=r"no permission.*still there: 1, 2"):
            store.save(3, *state_of(3), {}, wait=True)
    finally:
        folder.chmod(0o755)


def test_a_folder_that_cannot_be_created_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be used: Not a directory"):
        CheckpointStore(tmp_path / "file" / "checkpoints")


@pytest.mark.long
def test_a_state_saved_on_four_devices_is_restored_on_two(tmp_path):
    code = """
        from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
        count, folder = int(sys.argv[1]), sys.argv[2]
        mesh = jax.make_mesh((count,), ("fsdp",), axis_types=(AxisType.Auto,))
        sharded, replicated = NamedSharding(mesh, P("fsdp")), NamedSharding(mesh, P())
        kernel = np.arange(32, dtype=np.float32).reshape(8, 4)
        store = CheckpointStore(folder)
        if count == 4:
            params = {"kernel": jax.device_put(kernel, sharded)}
            store.save(1, params, (jax.device_put(np.int32(3), replicated),), {}, wait=True)
        else:
            target = {"kernel": jax.ShapeDtypeStruct((8, 4), np.float32, sharding=sharded)}
            counter = jax.ShapeDtypeStruct((), np.int32, sharding=replicated)
            restored = store.restore(target, (counter,))
            found = restored.params["kernel"]
            np.testing.assert_array_equal(np.asarray(found), kernel)
            assert found.sharding == sharded and int(restored.opt_state[0]) == 3
            assert {shard.data.shape for shard in found.addressable_shards} == {(4, 4)}
        store.close()
    """
    for count in (4, 2):
        result = subprocess.run(
            **python(code, count, tmp_path / "c", devices=count), capture_output=True, timeout=250
        )
        assert result.returncode == 0, result.stderr[-2000:]
    # The state can also be restored on the one device of this process.
    assert CheckpointReader(tmp_path / "c").restore_params().params["kernel"].shape == (8, 4)


@pytest.mark.long
def test_two_processes_save_skip_damage_and_restore(tmp_path):
    from tests.helpers.free_port import free_port  # not needed by processes that import this module

    before = """
        import jax
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{sys.argv[2]}", 2, int(sys.argv[1]))
    """
    code = """
        from jax.experimental import multihost_utils
        from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
        rank, folder = jax.process_index(), Path(sys.argv[3])
        mesh = jax.make_mesh((2,), ("fsdp",), axis_types=(AxisType.Auto,))
        sharding = NamedSharding(mesh, P("fsdp"))
        def sharded(value):
            values = np.full((2, 3), value, np.float32)
            return jax.make_array_from_callback((2, 3), sharding, lambda index: values[index])
        store, data = CheckpointStore(folder, 2), iterator()
        for step in (1, 2, 2):
            params, opt_state = {"a": sharded(step)}, (sharded(-step),)
            store.save(step, params, opt_state, {}, data, metrics={"loss": 1.0})
            next(data)
        store.wait()
        if rank == 0:
            flip_bit(folder / "2" / "params" / "_METADATA")
        multihost_utils.sync_global_devices("damaged")
        target = jax.ShapeDtypeStruct((2, 3), np.float32, sharding=sharding)
        restored = store.restore({"a": target}, (target,), data_iterator=data)
        assert restored.step == 1 and data.get_state()["next_index"] == 0
        for shard in restored.params["a"].addressable_shards:
            assert (np.asarray(shard.data) == 1).all()
        store.save(2, restored.params, restored.opt_state, {}, data)
        store.close()
        print(store.steps(), (folder / "2.damaged").is_dir())
    """
    port = free_port()
    processes = [
        subprocess.Popen(
            **python(code, rank, port, tmp_path / "c", before=before),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    for process in processes:
        output, errors = process.communicate(timeout=250)
        assert process.returncode == 0, errors[-2000:]
        assert output.splitlines()[-1] == "[1, 2] True"


def test_a_killed_save_keeps_the_newest_complete_checkpoint(tmp_path):
    code = """
        store = CheckpointStore(sys.argv[1], keep_last=2)
        first = (store.latest_step() or 0) + 1
        print("ready", flush=True)
        for step in range(first, first + 10_000):
            store.save(step, *state_of(step), {"epoch": step})
            print(step, flush=True)
    """
    for num_lines, pause in ((4, 0.0), (7, 0.013)):  # two moments of a save
        with subprocess.Popen(
            **python(code, tmp_path / "c"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as trainer:
            started = [trainer.stdout.readline() for _ in range(num_lines)]
            time.sleep(pause)
            trainer.kill()
        store = CheckpointStore(tmp_path / "c")
        restored = store.restore(*TARGETS)
        # A save begins only when the one before it is final.
        assert restored.step >= int(started[-1]) - 1
        assert_same(restored.params, params_of(restored.step))
        assert_same(restored.opt_state, state_of(restored.step)[1])
        assert not list((tmp_path / "c").glob("*.damaged"))
