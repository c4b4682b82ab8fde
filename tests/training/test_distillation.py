"""What a teacher adds to the loss, which teachers are refused, and a student's run through the commands."""

import dataclasses
import json
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from signvit_jax.checkpoints.reader import CheckpointReader
from signvit_jax.commands import distill
from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import DistillationConfig
from signvit_jax.inference.trained_model import load_trained
from signvit_jax.models.translator import Encoded
from signvit_jax.optimization.distillation_loss import (
    CTC_LOGITS,
    DISTILL_LOSSES,
    FEATURES,
    LOGITS,
    distillation_loss,
    divergence,
)
from signvit_jax.optimization.losses import Outputs, divisors
from signvit_jax.training.distillation import check_teacher, initial_projection, load_teacher
from signvit_jax.training.origin import TeacherIdentity, digest_of
from signvit_jax.weights.whole_model import export_safetensors
from tests.helpers import tiny_model, tiny_run
from tests.training.test_run import figures

CONFIG = DistillationConfig(temperature=3.0, decoder_weight=2.0, ctc_weight=0.5, feature_weight=4.0)


class Student:
    """Reads frames, as a model with decoder.memory 'frames' does."""

    @staticmethod
    def memory(encoded):
        return encoded.frames, encoded.frame_lengths


def said(batch, seed=0, width=5):
    (b, t), words = batch["video"].shape[:2], batch["tokens"].shape[1] - 1
    draw = np.random.default_rng(seed).normal
    encoded = Encoded(
        jnp.zeros((b, 2, width)),
        jnp.asarray(draw(size=(b, t, width))),
        jnp.asarray(batch["frame_lengths"]),
    )
    return Outputs(
        encoded,
        jnp.asarray(draw(size=(b, words, 7))),
        jnp.asarray(draw(size=(b, t, 7))),
        jnp.asarray(batch["frame_lengths"]),
    )


def taught(batch, teacher: Outputs):
    return batch | {
        LOGITS: teacher.logits,
        CTC_LOGITS: teacher.ctc_logits,
        FEATURES: teacher.encoded.frames,
    }


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def test_each_part_is_what_a_loop_over_clips_and_places_finds():
    batch = tiny_model.batch() | {"weights": np.array([1, 1, 0, 1], np.float32)}
    student, teacher = said(batch, 1), said(batch, 2)
    total, parts = distillation_loss(
        Student, student, taught(batch, teacher), divisors(batch), CONFIG
    )
    ce, ctc, features, tokens = 0.0, 0.0, 0.0, 0
    for i in (0, 1, 3):
        kl = []
        for j in range(batch["token_lengths"][i] - 1):
            p, q = (
                softmax(np.asarray(teacher.logits)[i, j] / 3),
                softmax(np.asarray(student.logits)[i, j] / 3),
            )
            ce, tokens = ce + 9 * (p * np.log(p / q)).sum(), tokens + 1
        apart = []
        for t in range(batch["frame_lengths"][i]):
            p, q = (
                softmax(np.asarray(teacher.ctc_logits)[i, t] / 3),
                softmax(np.asarray(student.ctc_logits)[i, t] / 3),
            )
            kl.append(9 * (p * np.log(p / q)).sum())
            a, b = (np.asarray(of.encoded.frames)[i, t] for of in (student, teacher))
            apart.append((((a - a.mean()) / a.std() - (b - b.mean()) / b.std()) ** 2).mean())
        ctc, features = ctc + np.mean(kl), features + np.mean(apart)
    expected = dict(zip(DISTILL_LOSSES, (ce / tokens, ctc / 3, features / 3)))
    for name, value in expected.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-3, err_msg=name)
    np.testing.assert_allclose(
        total, 2.0 * parts["soft_ce"] + 0.5 * parts["soft_ctc"] + 4.0 * parts["features"], rtol=1e-6
    )


def test_a_student_that_says_what_its_teacher_says_has_nothing_to_learn():
    batch = tiny_model.batch()
    total, _ = distillation_loss(
        Student, said(batch, 1), taught(batch, said(batch, 1)), divisors(batch), CONFIG
    )
    assert float(total) == pytest.approx(0.0, abs=1e-5)
    slope = jax.grad(lambda logits: divergence(logits, said(batch, 1).logits, 2.0).sum())(
        said(batch, 1).logits
    )
    np.testing.assert_allclose(slope, 0.0, atol=1e-5)


def test_parts_of_a_batch_add_up_to_the_whole():
    batch = tiny_model.batch() | {"weights": np.array([1, 1, 0, 1], np.float32)}
    student, full = said(batch, 1), taught(batch, said(batch, 2))
    whole = distillation_loss(Student, student, full, divisors(batch), CONFIG)[0]
    cut = [
        jax.tree.map(lambda x, rows=rows: x[rows], (student, full))
        for rows in (slice(0, 1), slice(1, 4))
    ]
    np.testing.assert_allclose(
        sum(distillation_loss(Student, *part, divisors(batch), CONFIG)[0] for part in cut),
        whole,
        rtol=1e-5,
    )


def test_features_of_another_width_go_through_a_projection():
    assert initial_projection(8, 8, 0) is None and initial_projection(8, 0, 0) is None
    projection = initial_projection(5, 3, seed=0)
    assert projection["kernel"].shape == (5, 3) and projection["bias"].shape == (3,)
    batch = tiny_model.batch()
    student, teacher = said(batch, 1), said(batch, 2, width=3)
    mapped = student._replace(
        encoded=student.encoded._replace(frames=student.encoded.frames @ projection["kernel"])
    )
    one, other = (
        distillation_loss(Student, of, taught(batch, teacher), divisors(batch), CONFIG, by)[0]
        for of, by in ((student, projection), (mapped, None))
    )
    np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.fixture(scope="module")
def teacher(trained):
    return load_trained(trained.workdir)


def replaced(config, **changes):
    values = dataclasses.asdict(config)
    for key, value in changes.items():
        *rooms, name = key.split("__")
        node = values
        for room in rooms:
            node = node[room]
        node[name] = value
    from signvit_jax.config.schema import from_mapping

    return from_mapping(values)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data__image_size": 64}, ["image_size is 64", "32"]),
        ({"data__name": "isign"}, ["name is 'isign'", "'video_folder'"]),
        ({"model__ctc__source": "frames"}, ["ctc.source is 'frames'", "'queries'"]),
        ({"model__temporal__num_queries": 8}, ["num_queries is 8", "4"]),
    ],
    ids=str,
)
def test_a_teacher_that_sees_or_says_something_else_is_refused(teacher, changes, words):
    data = types.SimpleNamespace(tokenizer=teacher.tokenizer, ctc_tokenizer=teacher.tokenizer)
    check_teacher(teacher, teacher.config, data)
    with pytest.raises(ConfigError) as caught:
        check_teacher(teacher, replaced(teacher.config, **changes), data)
    assert all(word in str(caught.value) for word in (*words, str(teacher.workdir.path)))


@pytest.fixture(scope="module")
def teaching(teacher, trained, tmp_path_factory):
    """A function: the identity of the teacher in a workdir, or the error; and a copy of the teacher's workdir."""
    workdir = tmp_path_factory.mktemp("teaching") / "teacher"
    shutil.copytree(trained.workdir, workdir)
    data = types.SimpleNamespace(tokenizer=teacher.tokenizer, ctc_tokenizer=teacher.tokenizer)

    def identity(path, before=None):
        return load_teacher(
            replaced(teacher.config, training__distillation__teacher=str(path)),
            data,
            teacher.mesh,
            before,
        ).identity

    return identity, workdir


def test_a_teacher_that_went_on_training_teaches_as_it_was_and_is_refused_where_that_is_gone(
    teaching, tmp_path, caplog
):
    caplog.set_level("INFO")
    identity, original = teaching
    best = identity(original)
    other = max(
        step for step in CheckpointReader(original / "checkpoints").steps() if step != best.step
    )
    began_with = TeacherIdentity(
        str(original), other, digest_of(load_trained(original, other).params)
    )
    assert began_with.digest != best.digest and identity(original, best) == best
    assert identity(original, began_with) == began_with
    assert f"step {other} teaches, as before" in caplog.text

    gone = tmp_path / "teacher"
    shutil.copytree(original, gone, ignore=shutil.ignore_patterns(str(other)))
    with pytest.raises(
        ConfigError,
        match=rf"is another than this run began with: step {other}, digest {began_with.digest} then.*Put its old",
    ):
        identity(gone, dataclasses.replace(began_with, path=str(gone)))
    assert identity(gone, dataclasses.replace(best, path="moved since")).digest == best.digest
    # Another workdir is what the user asked for.
    assert identity(gone, began_with).step == best.step
    assert "goes on with another teacher" in caplog.text


def test_the_digest_of_weights_changes_with_every_bit_shape_and_name():
    weights = {"a": np.arange(6, dtype=np.float32), "b": {"c": np.ones((2, 2), jax.numpy.bfloat16)}}
    one_bit = weights["a"].copy()
    one_bit.view(np.uint32)[5] ^= 1
    others = [
        weights | {"a": one_bit},
        weights | {"a": weights["a"].reshape(2, 3)},
        {"A": weights["a"], "b": weights["b"]},
        weights | {"a": np.float64(1)},
    ]
    digests = [digest_of(tree) for tree in (weights, *others)]
    assert len(set(digests)) == 5 and {len(digest) for digest in digests} == {16}
    assert digest_of(jax.tree.map(jax.numpy.asarray, weights)) == digests[0]


def command(trained, workdir, *flags):
    return tiny_run.command(
        distill.main, f"--config={trained.config}", f"--workdir={workdir}", *flags
    )


@pytest.mark.long
@pytest.mark.usefixtures("light_jax")
def test_a_student_starts_from_weights_learns_from_its_teacher_and_thaws_after_a_resume(
    trained, teacher, tmp_path, capfd
):
    """One run for all that a student's run is: another width, a pretrained backbone frozen for an epoch, stopped and gone on with."""
    weights = tmp_path / "teacher.safetensors"
    assert export_safetensors(weights, jax.device_get(teacher.params)) == "reference"
    student = [
        f"--teacher={trained.workdir}",
        f"--config.model.encoder.pretrained={weights}",
        "--config.model.encoder.freeze_epochs=1",
        "--config.model.decoder.hidden_dim=8",
        "--config.training.keep_last_n_checkpoints=9",
        "--config.training.save_every_n_epochs=1",
    ]
    workdir = tmp_path / "student"
    assert command(trained, workdir, *student, "--config.training.num_epochs=1") == 0
    assert command(trained, workdir, *student, "--config.training.num_epochs=2") == 0

    steps = tiny_run.STEPS_PER_EPOCH
    reader = CheckpointReader(workdir / "checkpoints")
    first, second = (
        reader.restore_params(step=at * steps, prefer_ema=False).params["encoder"]["backbone"]
        for at in (1, 2)
    )
    jax.tree.map(
        np.testing.assert_array_equal, first, jax.device_get(teacher.params)["encoder"]["backbone"]
    )
    assert all(
        not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second))
    )

    config = json.loads((workdir / "config.json").read_text())
    assert config["training"]["distillation"]["teacher"] == str(trained.workdir)
    for name in DISTILL_LOSSES:
        found = figures(workdir, f"train/{name}")
        assert len(found) == 2 * steps and all(np.isfinite(list(found.values())))
    assert "projection" in reader._saved_shapes(2 * steps, "opt_state")
    assert load_trained(workdir).definition.config.model.decoder.hidden_dim == 8

    # What taught is recorded, and held to.
    origin = workdir / "origin.json"
    recorded = json.loads(origin.read_text())
    assert recorded["teacher"] == {
        "path": str(trained.workdir),
        "step": teacher.step,
        "digest": digest_of(teacher.params),
    }
    origin.write_text(
        json.dumps(recorded | {"teacher": recorded["teacher"] | {"digest": "0" * 16}})
    )
    capfd.readouterr()
    assert command(trained, workdir, *student, "--config.training.num_epochs=2") == 2
    assert "is another than this run began with" in capfd.readouterr().err
    origin.write_text(json.dumps(recorded))

    # Without its teacher it would be another run.
    from signvit_jax.commands import train

    capfd.readouterr()
    assert (
        tiny_run.command(
            train.main, f"--config={trained.config}", f"--workdir={workdir}", *student[1:]
        )
        == 2
    )
    assert "training.distillation.teacher" in capfd.readouterr().err


@pytest.mark.usefixtures("light_jax")
def test_a_teacher_of_another_vocabulary_is_refused_before_anything_is_compiled(
    trained, tmp_path, capfd
):
    assert (
        command(
            trained,
            tmp_path / "student",
            f"--teacher={trained.workdir}",
            "--config.tokenizer.lowercase=False",
        )
        == 2
    )
    said = capfd.readouterr().err
    assert "one vocabulary" in said and str(trained.workdir) in said and "Traceback" not in said


@pytest.mark.usefixtures("light_jax")
def test_a_teacher_that_is_no_workdir_is_refused(trained, tmp_path, capfd):
    assert command(trained, tmp_path / "student", f"--teacher={tmp_path / 'nobody'}") == 2
    assert "nobody" in capfd.readouterr().err
