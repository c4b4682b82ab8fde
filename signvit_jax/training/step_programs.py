"""The programs of a run's steps: model, optimizer and teacher on the mesh, compiled ahead."""

import contextlib
import logging
import time
from collections.abc import Iterator

import jax
from jaxtyping import Array, Int

from signvit_jax.data.pipeline import Batch, BatchIterator
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.optimization.compiling_ahead import CompiledSteps, Shapes
from signvit_jax.optimization.flat_start import with_flat_start
from signvit_jax.optimization.keypoint_loss import initial_keypoint_head
from signvit_jax.optimization.learning_rates import LearningRates
from signvit_jax.optimization.optimizer import make_optimizer
from signvit_jax.optimization.train_state import TrainState, abstract_on_mesh, new_state
from signvit_jax.optimization.train_step import StepReport, make_train_step
from signvit_jax.parallel.mesh import make_mesh
from signvit_jax.parallel.sharding import to_device
from signvit_jax.planning.memory import batch_shapes, check_fits, describe_oom, step_memory
from signvit_jax.runtime.exit_codes import is_out_of_memory
from signvit_jax.training.distillation import initial_projection, load_teacher
from signvit_jax.training.origin import TeacherIdentity
from signvit_jax.training.run_data import RunData

log = logging.getLogger(__name__)


class StepPrograms:
    """Model, optimizer and teacher of a run, and its compiled train steps.

    `abstract_state` is the state's ShapeDtypeStructs on the mesh and `shardings` their shardings.
    `saved_state` is the same as a checkpoint holds it: with an unpadded vocabulary.
    """

    def __init__(
        self,
        data: RunData,
        batches: BatchIterator,
        teacher: TeacherIdentity | None,
        *,
        thaws: bool,
    ):
        """`teacher`: the one that the run began with. `thaws`: as in `make_optimizer`."""
        config, training = data.config, data.config.training
        self.config = config
        self.steps_per_epoch = batches.steps_per_epoch
        self._data = data
        self._batches = batches
        self._thaws = thaws
        self.mesh = make_mesh(config.mesh, training.batch_size // training.gradient_accumulation)
        self.definition = ModelDefinition(config, *data.vocabularies.sizes)
        self.teacher = load_teacher(config, data, self.mesh, teacher)
        freeze_epochs = config.model.encoder.freeze_epochs
        self.rates = LearningRates(
            training, data.num_epochs, self.steps_per_epoch, freeze_epochs, thaws
        )
        self._optimizer = make_optimizer(training, self.rates.cycle_steps, thaws=thaws)
        self.abstract_state, self.shardings = abstract_on_mesh(self.initial_state, self.mesh)
        self.saved_state = self.abstract_state
        if self.mesh.shape["tensor"] > 1:  # may pad the vocabulary
            self.saved_state, _ = abstract_on_mesh(
                lambda: self.initial_state(padded=False), self.mesh
            )
        self._steps: dict[bool, CompiledSteps] = {}  # by whether the backbone is frozen

    def initial_state(
        self, seed: int | Int[Array, ""] | None = None, *, padded: bool = True
    ) -> TrainState:
        """Return the random state before the first step (traceable).

        `seed`: that of the config by default.
        """
        seed = self.config.training.seed if seed is None else seed
        model = self.config.model
        teacher_width = self.teacher.width if self.teacher else 0
        aux = initial_projection(model.decoder.hidden_dim, teacher_width, seed)
        if self.config.training.keypoint_weight:
            aux |= initial_keypoint_head(model.encoder.output_dim, self._data.num_keypoints, seed)
        return new_state(
            self.definition,
            self._optimizer,
            seed,
            self.mesh if padded else None,
            aux,
            thaws=self._thaws,
        )

    def is_frozen(self, step: int) -> bool:
        """Return True if the backbone is frozen in the update that follows `step` updates."""
        return step // self.steps_per_epoch < self.config.model.encoder.freeze_epochs

    def step(
        self, state: TrainState, batch: dict[str, jax.Array], *, frozen_backbone: bool
    ) -> tuple[TrainState, StepReport]:
        """Make one update; the state is donated. `batch`: as `device_batch` returns it."""
        if self.teacher:
            batch = self.teacher.add_targets(batch)
        return self._compiled_steps(frozen_backbone)(state, batch)

    def compile(self, first: int) -> None:
        """Compile all programs for the steps from `first` on, the largest first.

        Raises DeviceMemoryError if the largest one needs more memory than a device has.
        """
        total = self._batches.total_steps
        thaw = min(self.config.model.encoder.freeze_epochs * self.steps_per_epoch, total)
        step_ranges = {False: (max(first, thaw), total), True: (first, thaw)}  # by frozen or not
        programs = [
            (frames, frozen)
            for frozen, (start, end) in step_ranges.items()
            if start < end
            for frames in self._batches.frames_of_steps(start, end)
        ]
        programs.sort(key=lambda program: (-program[0], program[1]))
        lengths = ", ".join(
            f"{frames} frames" + " (backbone frozen)" * frozen for frames, frozen in programs
        )
        log.info("compiling the training step for clips of %s", lengths)
        begin = time.perf_counter()
        for number, (frames, frozen) in enumerate(programs):
            batch = self._batch_shapes(frames)
            program = self._compiled_steps(frozen).compile(self.abstract_state, batch)
            if number == 0:
                check_fits(self.config, self.mesh, step_memory(self.abstract_state, batch, program))
        log.info("compiled in %.1f s", time.perf_counter() - begin)

    @contextlib.contextmanager
    def explained_oom(self) -> Iterator[None]:
        """Raise DeviceMemoryError, with the step's memory and advice, for XLA's out of memory."""
        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                raise
            longest, *_ = self._batches.frames_of_steps(0, self.steps_per_epoch)
            step, batch = self._compiled_steps(False), self._batch_shapes(longest)
            raise describe_oom(
                error, self.config, self.mesh, self.abstract_state, batch, step
            ) from error

    def _compiled_steps(self, frozen_backbone: bool) -> CompiledSteps:
        if frozen_backbone not in self._steps:
            step = make_train_step(
                self.definition,
                self._optimizer,
                with_flat_start(self.config.training, self.rates.cycle_steps),
                self.mesh,
                self.shardings,
                frozen_backbone=frozen_backbone,
            )
            self._steps[frozen_backbone] = CompiledSteps(step)
        return self._steps[frozen_backbone]

    def _batch_shapes(self, frames: int) -> Shapes:
        """Return the shapes of a batch of clips with `frames` frames, as the step takes it.

        The teacher's program for such a batch is compiled first.
        """
        data = self._data
        batch = batch_shapes(
            self.config,
            self.mesh,
            frames,
            data.text_length,
            data.gloss_length,
            data.num_keypoints,
        )
        if self.teacher is None:
            return batch
        self.teacher.compile(batch)
        return self.teacher.add_target_shapes(batch)


def device_batch(batch: Batch, mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """Put the arrays that a step reads on the mesh: all but the clips' numbers, "index"."""
    arrays = {
        "video": batch["video"],
        "frame_lengths": batch["frame_lengths"],
        "tokens": batch["tokens"],
        "token_lengths": batch["token_lengths"],
        "weights": batch["weights"],
    }
    if "gloss_tokens" in batch and "gloss_lengths" in batch:
        arrays |= {"gloss_tokens": batch["gloss_tokens"], "gloss_lengths": batch["gloss_lengths"]}
    if (
        "sentence_tokens" in batch
        and "sentence_glosses" in batch
        and "sentence_gloss_lengths" in batch
    ):
        arrays |= {
            "sentence_tokens": batch["sentence_tokens"],
            "sentence_glosses": batch["sentence_glosses"],
            "sentence_gloss_lengths": batch["sentence_gloss_lengths"],
        }
    if "keypoints" in batch and "part_points" in batch:
        arrays |= {"keypoints": batch["keypoints"], "part_points": batch["part_points"]}
    return to_device(arrays, mesh)
