"""The loss that a teacher adds, the teachers that are refused, and a student's run."""

import dataclasses
import json
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from signvit_jax.checkpoints.reader import CheckpointReader
from signvit_jax.commands import distill, train
from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import DistillationConfig, from_mapping
from signvit_jax.inference.trained_model import load_trained
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.models.translator import Encoded
from signvit_jax.optimization.distillation_loss import (
    DISTILL_LOSSES,
    TEACHER_CTC_LOGITS,
    TEACHER_FEATURES,
    TEACHER_LOGITS,
    DistillationTerm,
    divergence,
)
from signvit_jax.optimization.losses import (
    Outputs,
    TermInputs,
    forward,
    loss_denominators,
    sum_terms,
)
from signvit_jax.optimization.train_step import loss_terms
from signvit_jax.parallel.mesh import make_mesh
from signvit_jax.text.model_vocabularies import Vocabularies
from signvit_jax.training.distillation import (
    check_teacher,
    initial_projection,
    load_teacher,
    teacher_targets,
)
from signvit_jax.training.origin import TeacherIdentity, digest_of
from signvit_jax.weights.whole_model import export_safetensors
from tests.helpers import tiny_model, tiny_run
from tests.training.test_run import metric_by_step

CONFIG = DistillationConfig(temperature=3.0, decoder_weight=2.0, ctc_weight=0.5, feature_weight=4.0)


class Student:
    """The part of a model with decoder.memory 'frames' that the loss needs."""

    @staticmethod
    def memory(encoded):
        return encoded.frames, encoded.frame_lengths


def random_outputs(batch, seed=0, width=5):
    (b, t) = batch["video"].shape[:2]
    words = batch["tokens"].shape[1] - 1
    draw = np.random.default_rng(seed).normal
    frame_lengths = jnp.asarray(batch["frame_lengths"])
    frames = jnp.asarray(draw(size=(b, t, width)))
    return Outputs(
        encoded=Encoded(jnp.zeros((b, 2, width)), frames, frame_lengths),
        logits=jnp.asarray(draw(size=(b, words, 7))),
        ctc_logits=jnp.asarray(draw(size=(b, t, 7))),
        ctc_steps=frame_lengths,
    )


def add_targets(batch, teacher: Outputs):
    return batch | {
        TEACHER_LOGITS: teacher.logits,
        TEACHER_CTC_LOGITS: teacher.ctc_logits,
        TEACHER_FEATURES: teacher.encoded.frames,
    }


def distill_loss(student: Outputs, batch, counts=None, aux=None):
    """Return (the loss, its metrics) of a batch with a teacher's outputs."""
    counts = counts or loss_denominators(batch)
    return DistillationTerm(CONFIG)(TermInputs(Student, student, batch, counts, aux=aux))


def kl(teacher, student):
    """Return the divergence of two vectors of logits at temperature 3, times its square."""
    p, q = (np.exp(x / 3) / np.exp(x / 3).sum() for x in (teacher, student))
    return 9 * (p * np.log(p / q)).sum()


def standardized(features):
    return (features - features.mean()) / features.std()


def test_each_distill_loss_equals_a_loop_over_positions():
    batch = tiny_model.batch() | {"weights": np.array([1, 1, 0, 1], np.float32)}
    student, teacher = random_outputs(batch, 1), random_outputs(batch, 2)
    total, metrics = distill_loss(student, add_targets(batch, teacher))
    ours, theirs = (jax.tree.map(np.asarray, outputs) for outputs in (student, teacher))
    per_token = []
    ctc = 0.0
    features = 0.0
    for i in (0, 1, 3):
        for j in range(batch["token_lengths"][i] - 1):
            per_token.append(kl(theirs.logits[i, j], ours.logits[i, j]))
        per_step, per_position = [], []
        for t in range(batch["frame_lengths"][i]):
            per_step.append(kl(theirs.ctc_logits[i, t], ours.ctc_logits[i, t]))
            a = standardized(ours.encoded.frames[i, t])
            b = standardized(theirs.encoded.frames[i, t])
            per_position.append(((a - b) ** 2).mean())
        ctc += np.mean(per_step)
        features += np.mean(per_position)
    expected = {"soft_ce": np.mean(per_token), "soft_ctc": ctc / 3, "features": features / 3}
    assert expected.keys() == set(DISTILL_LOSSES)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-3, err_msg=name)
    weighted = 2.0 * metrics["soft_ce"] + 0.5 * metrics["soft_ctc"] + 4.0 * metrics["features"]
    np.testing.assert_allclose(total, weighted, rtol=1e-6)


def test_a_student_with_its_teachers_outputs_has_loss_zero():
    batch = tiny_model.batch()
    outputs = random_outputs(batch, 1)
    total, _ = distill_loss(outputs, add_targets(batch, outputs))
    assert float(total) == pytest.approx(0.0, abs=1e-5)
    gradient_of = jax.grad(lambda logits: divergence(logits, outputs.logits, 2.0).sum())
    np.testing.assert_allclose(gradient_of(outputs.logits), 0.0, atol=1e-5)


def test_the_distill_losses_of_microbatches_add_up():
    batch = tiny_model.batch() | {"weights": np.array([1, 1, 0, 1], np.float32)}
    student = random_outputs(batch, 1)
    with_targets = add_targets(batch, random_outputs(batch, 2))
    counts = loss_denominators(batch)
    complete, _ = distill_loss(student, with_targets, counts)
    parts = [
        jax.tree.map(lambda x, rows=rows: x[rows], (student, with_targets))
        for rows in (slice(0, 1), slice(1, 4))
    ]
    total = sum(distill_loss(*part, counts)[0] for part in parts)
    np.testing.assert_allclose(total, complete, rtol=1e-5)


@pytest.mark.parametrize("teacher_reads", [True, False])
def test_one_of_both_models_may_read_glosses(teacher_reads):
    reads, only_spells = tiny_model.READS_GLOSSES, {"model__ctc__target": "gloss"}
    of_teacher, of_student = (reads, only_spells) if teacher_reads else (only_spells, reads)
    mesh = make_mesh(tiny_model.config().mesh)
    batch = tiny_model.with_glosses(tiny_model.batch())
    teacher = types.SimpleNamespace(
        definition=ModelDefinition(tiny_model.config(**of_teacher), *tiny_model.SIZES_WITH_GLOSSES)
    )
    batch |= teacher_targets(teacher, mesh)(teacher.definition.init(1), batch)
    student = tiny_model.config(**of_student)
    model = tiny_model.model(student)
    terms = loss_terms(student.training, batch, reads_glosses=not teacher_reads)
    inputs = TermInputs(model, forward(model, batch), batch, loss_denominators(batch))
    found = sum_terms(terms, inputs)
    assert ("gloss_ce" in found.metrics) is not teacher_reads
    assert np.isfinite(found.total) and found.metrics["soft_ce"] > 0


def test_features_of_another_width_pass_through_a_projection():
    assert initial_projection(8, 8, 0) == initial_projection(8, 0, 0) == {}
    aux = initial_projection(5, 3, seed=0)
    kernel, bias = aux["projection"]["kernel"], aux["projection"]["bias"]
    assert kernel.shape == (5, 3) and bias.shape == (3,)
    batch = tiny_model.batch()
    student, teacher = random_outputs(batch, 1), random_outputs(batch, 2, width=3)
    encoded = student.encoded._replace(frames=student.encoded.frames @ kernel)
    projected = student._replace(encoded=encoded)
    with_targets = add_targets(batch, teacher)
    found, _ = distill_loss(student, with_targets, aux=aux)
    expected, _ = distill_loss(projected, with_targets)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.fixture(scope="module")
def teacher(trained):
    return load_trained(trained.workdir)


def replaced(config, **changes):
    """Return the config with other values; the key data__name stands for data.name."""
    values = dataclasses.asdict(config)
    for key, value in changes.items():
        *groups, name = key.split("__")
        node = values
        for group in groups:
            node = node[group]
        node[name] = value
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
def test_a_teacher_with_other_inputs_or_outputs_is_refused(teacher, changes, words):
    data = types.SimpleNamespace(vocabularies=Vocabularies(teacher.tokenizer))
    check_teacher(teacher, teacher.config, data)
    with pytest.raises(ConfigError) as caught:
        check_teacher(teacher, replaced(teacher.config, **changes), data)
    assert all(word in str(caught.value) for word in (*words, str(teacher.workdir.path)))


@pytest.fixture(scope="module")
def loaded_identity(teacher, trained, tmp_path_factory):
    """(identity, workdir): a function that loads a teacher, and a copy of the teacher's workdir.

    `identity(path, recorded)` returns the identity of the teacher that a run loads from `path` if
    its workdir has the identity `recorded`, None at a first start.
    """
    workdir = tmp_path_factory.mktemp("teaching") / "teacher"
    shutil.copytree(trained.workdir, workdir)
    data = types.SimpleNamespace(vocabularies=Vocabularies(teacher.tokenizer))

    def identity(path, recorded=None):
        return load_teacher(
            replaced(teacher.config, training__distillation__teacher=str(path)),
            data,
            teacher.mesh,
            recorded,
        ).identity

    return identity, workdir


@pytest.fixture(scope="module")
def began_with(loaded_identity):
    """The identity of a teacher's checkpoint that is not its best one."""
    identity, original = loaded_identity
    best = identity(original)
    steps = CheckpointReader(original / "checkpoints").steps()
    other = max(step for step in steps if step != best.step)
    digest = digest_of(load_trained(original, other).params)
    assert digest != best.digest
    return TeacherIdentity(str(original), other, digest)


def test_a_run_keeps_its_teacher_after_the_teacher_was_trained_further(
    loaded_identity, began_with, caplog
):
    caplog.set_level("INFO")
    identity, original = loaded_identity
    best = identity(original)
    assert identity(original, best) == best
    assert identity(original, began_with) == began_with
    assert f"this run keeps the one of step {began_with.step}" in caplog.text


def test_a_teacher_whose_checkpoint_is_gone_is_refused(loaded_identity, began_with, tmp_path):
    identity, original = loaded_identity
    gone = tmp_path / "teacher"
    missing = str(began_with.step)
    shutil.copytree(original, gone, ignore=shutil.ignore_patterns(missing))
    then = f"step {began_with.step}, digest {began_with.digest} then"
    message = f"differs from the one that this run began with: {then}.*Put its old"
    with pytest.raises(ConfigError, match=message):
        identity(gone, dataclasses.replace(began_with, path=str(gone)))


def test_a_teacher_in_another_workdir_is_used_with_a_warning(
    loaded_identity, began_with, tmp_path, caplog
):
    identity, original = loaded_identity
    best = identity(original)
    other = tmp_path / "teacher"
    missing = str(began_with.step)
    shutil.copytree(original, other, ignore=shutil.ignore_patterns(missing))
    moved = dataclasses.replace(best, path="moved since")
    assert identity(other, moved).digest == best.digest and not caplog.text
    assert identity(other, began_with).step == best.step
    assert "resumes with another teacher" in caplog.text


def test_the_digest_changes_with_every_bit_shape_and_name():
    weights = {"a": np.arange(6, dtype=np.float32), "b": {"c": np.ones((2, 2), jax.numpy.bfloat16)}}
    one_bit = weights["a"].copy()
    one_bit.view(np.uint32)[5] ^= 1
    changed = [
        weights | {"a": one_bit},
        weights | {"a": weights["a"].reshape(2, 3)},
        {"A": weights["a"], "b": weights["b"]},
        weights | {"a": np.float64(1)},
    ]
    digests = [digest_of(tree) for tree in (weights, *changed)]
    assert len(set(digests)) == 5 and {len(digest) for digest in digests} == {16}
    assert digest_of(jax.tree.map(jax.numpy.asarray, weights)) == digests[0]


def command(trained, workdir, *flags):
    return tiny_run.command(
        distill.main, f"--config={trained.config}", f"--workdir={workdir}", *flags
    )


@pytest.mark.long
@pytest.mark.usefixtures("light_jax")
def test_a_student_learns_and_thaws_after_a_resume(trained, teacher, tmp_path, capfd):
    """A run with another decoder width and a pretrained backbone that is frozen for an epoch."""
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
        reader.restore_params(step=epoch * steps, prefer_ema=False).params["encoder"]["backbone"]
        for epoch in (1, 2)
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
        found = metric_by_step(workdir, f"train/{name}")
        assert len(found) == 2 * steps and all(np.isfinite(list(found.values())))
    assert "projection" in reader._saved_shapes(2 * steps, "opt_state")
    assert load_trained(workdir).definition.config.model.decoder.hidden_dim == 8

    # The teacher is recorded, and a resume checks it.
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
    assert "differs from the one that this run began with" in capfd.readouterr().err
    origin.write_text(json.dumps(recorded))

    # A run cannot resume without its teacher.
    capfd.readouterr()
    without_teacher = [f"--config={trained.config}", f"--workdir={workdir}", *student[1:]]
    assert tiny_run.command(train.main, *without_teacher) == 2
    assert "training.distillation.teacher" in capfd.readouterr().err


@pytest.mark.usefixtures("light_jax")
def test_a_teacher_with_another_vocabulary_is_refused(trained, tmp_path, capfd):
    flags = [f"--teacher={trained.workdir}", "--config.tokenizer.lowercase=False"]
    assert command(trained, tmp_path / "student", *flags) == 2
    message = capfd.readouterr().err
    assert "one vocabulary" in message and str(trained.workdir) in message
    assert "Traceback" not in message


@pytest.mark.usefixtures("light_jax")
def test_a_teacher_that_is_no_workdir_is_refused(trained, tmp_path, capfd):
    assert command(trained, tmp_path / "student", f"--teacher={tmp_path / 'nobody'}") == 2
    assert "nobody" in capfd.readouterr().err
