"""A training run from its first step to its last: restore, steps, evaluation, checkpoints."""

import contextlib
import dataclasses
import errno
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from signvit_jax.checkpoints.best import BestSoFar, best_rule
from signvit_jax.checkpoints.store import CheckpointStore
from signvit_jax.checkpoints.workdir import Workdir
from signvit_jax.config.schema import Config
from signvit_jax.data.dataset import DatasetError
from signvit_jax.data.pipeline import Batch, BatchIterator
from signvit_jax.errors.base import SignVitError
from signvit_jax.evaluation.metrics import Scores, score
from signvit_jax.inference.predictor import Hypothesis, Predictor
from signvit_jax.inference.resting import evidence
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.optimization.compiled_steps import CompiledSteps
from signvit_jax.optimization.learning_rates import Rates
from signvit_jax.optimization.losses import with_flat_start
from signvit_jax.optimization.optimizer import make_optimizer
from signvit_jax.optimization.train_state import (
    TrainState,
    abstract_on_mesh,
    new_state,
    replace_params,
)
from signvit_jax.optimization.train_step import StepReport, make_eval_step, make_train_step
from signvit_jax.parallel.mesh import make_mesh
from signvit_jax.parallel.sharding import gather_fsdp, replicated, to_device
from signvit_jax.parallel.vocabulary import reshard_like
from signvit_jax.planning.memory import batch_shapes, check_fits, describe_oom, step_memory
from signvit_jax.runtime.consensus import StopConsensus
from signvit_jax.runtime.exit_codes import FAILED, is_out_of_memory
from signvit_jax.runtime.signals import StopRequest
from signvit_jax.telemetry.goodput import Goodput
from signvit_jax.telemetry.metric_writer import MetricsLog
from signvit_jax.telemetry.observers import Observer
from signvit_jax.telemetry.plots import plot_metrics
from signvit_jax.telemetry.profiler import StepTrace, TracedSteps
from signvit_jax.telemetry.progress import TrainingProgress
from signvit_jax.telemetry.run_log import CONSOLE
from signvit_jax.telemetry.throughput import Stopwatch
from signvit_jax.training.calibration import RunCalibration
from signvit_jax.training.distillation import initial_projection, load_teacher
from signvit_jax.training.divergence import StepWatch
from signvit_jax.training.origin import recorded_teacher
from signvit_jax.training.run_data import RunData, num_epochs
from signvit_jax.weights.pretrained import PretrainedBackbone

log = logging.getLogger(__name__)

_THAWED_AT = "thawed_at"  # in a checkpoint's notes, as in the state


class ProcessLostError(SignVitError, RuntimeError):
    """One of the processes of a run has ended, and the others cannot go on without it."""

    exit_code = FAILED


class Trainer:
    """One run in one workdir. `run()` returns the exit code: 0, or that of the signal that stopped it."""

    def __init__(
        self,
        config: Config,
        workdir: Workdir,
        data: RunData,
        stop: StopRequest,
        goodput: Goodput,
        *,
        strict_restore: bool = False,
        profile: TracedSteps | None = None,
        pretrained: PretrainedBackbone | None = None,
        keep_whole: Callable[[], None] = lambda: None,
        earlier: Config | None = None,
    ):
        """`keep_whole` is called before each save: it makes a workdir again that was renamed or deleted since.

        `earlier` is the config of the start before this one, if there was one.
        """
        self.config, self.workdir, self.data, self.stop, self.goodput, self.profile = (
            config,
            workdir,
            data,
            stop,
            goodput,
            profile,
        )
        self.agreement, self.keep_whole = StopConsensus(stop), keep_whole
        self.pretrained, self.earlier = pretrained, earlier
        training = config.training
        self.mesh = make_mesh(config.mesh, training.batch_size // training.gradient_accumulation)
        self.batches = data.train_batches()
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.num_epochs, self.total_steps = data.num_epochs, self.batches.total_steps

        self.definition = ModelDefinition(config, data.tokenizer.vocab_size, data.gloss_vocab_size)
        self.teacher = load_teacher(config, data, self.mesh, recorded_teacher(workdir))
        self.checkpoints = CheckpointStore(
            workdir.checkpoints,
            training.keep_last_n_checkpoints,
            strict=strict_restore,
            **best_rule(training.best_metric),
        )
        self.thaws = self._is_or_was_frozen()
        freeze_epochs = config.model.encoder.freeze_epochs
        self.rates = Rates(
            training, self.num_epochs, self.steps_per_epoch, freeze_epochs, self.thaws
        )
        self.optimizer = make_optimizer(training, self.rates.cycle_steps, thaws=self.thaws)
        self.abstract_state, self.shardings = abstract_on_mesh(self._initial_state, self.mesh)
        self.saved_state = self.abstract_state
        if (
            self.mesh.shape["tensor"] > 1
        ):  # on such a mesh the vocabulary may be padded, in a checkpoint it never is
            self.saved_state, _ = abstract_on_mesh(
                lambda: self._initial_state(padded=False), self.mesh
            )
        self.train_steps: dict[bool, Any] = {}  # frozen backbone or not -> compiled step
        self.eval_step = make_eval_step(self.definition, training, self.mesh, self.shardings.params)
        definition, mesh = self.definition, self.mesh

        def bind(params: Any) -> Any:
            return definition.bind(gather_fsdp(params, mesh))

        self.predictor = Predictor(
            bind, data.tokenizer, data.ctc_tokenizer, config.inference, self.mesh, ["greedy", "ctc"]
        )

        self.metrics = MetricsLog(workdir)
        self.plot, self.samples = Observer(workdir.metrics_png), Observer(workdir.samples)
        self.best = BestSoFar(training.best_metric)
        self.stopwatch = Stopwatch(self.definition)
        self.step_watch = StepWatch(
            training.max_nonfinite_steps, lambda example: data.train.index[example].id
        )
        self.resumed_after_evaluation = self.has_evaluated = False
        self.decoded: dict[
            int, dict[str, Hypothesis]
        ] = {}  # in the last evaluation, if it decoded the whole split
        self.calibration = RunCalibration(data, workdir)
        self.saved_step: int | None = None
        self.last_save = self.last_plot = time.monotonic()

    def run(self) -> int:
        try:
            return self._run()
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                raise
            longest, *_ = self.batches.frames_of_steps(0, self.steps_per_epoch)
            step, batch = self._train_step(False), self._taught_shapes(longest)
            raise describe_oom(
                error, self.config, self.mesh, self.abstract_state, batch, step
            ) from error

    def _run(self) -> int:
        iterator = self.batches
        with self.stop.exit_immediately_on_signal():
            state = self._restore(iterator)
        step = self.first_step = int(state.step)
        at_end_of_epoch = step > 0 and step % self.steps_per_epoch == 0
        # A signal in the middle of an evaluation leaves a checkpoint whose evaluation is still owed.
        owed = (
            at_end_of_epoch
            and not self.resumed_after_evaluation
            and self._evaluation_is_due(step // self.steps_per_epoch)
        )
        finished = self.resumed_after_evaluation and self._patience_is_over(
            step // self.steps_per_epoch
        )
        log.info("%s", self._description(step))
        updates = step - int(state.nonfinite_total)
        if step >= self.total_steps and not owed:
            log.info(
                "nothing to do: all %d epochs are done; %s",
                self.num_epochs,
                self.rates.how_to_extend(updates),
            )
        elif finished:
            log.info(
                "nothing to do: the run stopped early; a larger --config.training.patience goes on"
            )
        elif (
            step
            and self.earlier
            and (change := self.rates.change_from(self._earlier_rates(), updates))
        ):
            log.warning("%s", change)
        with (
            self._closing_checkpoints(),
            contextlib.closing(self.batches),
            contextlib.closing(self.metrics),
            TrainingProgress(self.total_steps, step, CONSOLE) as progress,
            StepTrace(self.profile, step, self.workdir.profile) as self.trace,
        ):
            if owed:
                finished = self._finish_epoch(state, step, iterator, progress)
            if step < self.total_steps and not (finished or self.agreement.stopping):
                progress.show(step, "compiling")
                with self.stop.exit_immediately_on_signal():
                    self._compile_steps(step)
                progress.begin()
            while step < self.total_steps and not (finished or self.agreement.stopping):
                with self.goodput.spent("step"):
                    state, step = self._train_epoch(state, step, iterator, progress)
                if step % self.steps_per_epoch == 0 and not self.agreement.stopping:
                    finished = self._finish_epoch(state, step, iterator, progress)
            if self.agreement.stopping and self.saved_step != step:
                self._save(state, step, iterator)
        self._plot(at_once=True)
        return self.agreement.exit_code

    @contextlib.contextmanager
    def _closing_checkpoints(self) -> Iterator[None]:
        """At the end waits for a save that is under way, also when the run fails. Raises ProcessLostError where another process has ended."""
        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            if jax.process_count() == 1 or is_out_of_memory(error):
                raise
            self.checkpoints.abandon()
            raise ProcessLostError(
                f"process {jax.process_index()} of {jax.process_count()} cannot go on: another one has ended; its own messages say why. "
                f"Start all of them again on the same workdir: they go on from its newest checkpoint ({str(error).strip().splitlines()[0]})"
            ) from error
        finally:
            with self.goodput.spent("save"):
                self.checkpoints.close()

    # Steps

    def _train_epoch(
        self, state: TrainState, step: int, iterator: BatchIterator, progress: TrainingProgress
    ) -> tuple[TrainState, int]:
        """From `step` to the end of its epoch, or to where a signal stops it."""
        epoch = step // self.steps_per_epoch
        last = (epoch + 1) * self.steps_per_epoch
        frozen = epoch < self.config.model.encoder.freeze_epochs
        train_step = self._train_step(frozen)
        self.stopwatch.start()
        while step < last and not self.agreement.stopping:
            # Until the first step is compiled and made, a signal ends the run at once: the newest checkpoint, if any, is where it stands.
            with (
                self.stop.exit_immediately_on_signal()
                if step == self.first_step
                else contextlib.nullcontext(),
                self.trace.step(step + 1),
            ):
                before = time.perf_counter()
                with self.goodput.spent("data"):
                    batch = self._next_batch(iterator)
                self.stopwatch.waited(time.perf_counter() - before)
                self.stopwatch.counted(batch, frozen_backbone=frozen)
                on_device = to_device(self._device_part(batch), self.mesh)
                state, report = train_step(
                    state, self.teacher.taught(on_device) if self.teacher else on_device
                )
            step += 1
            self.trace.done(step, report)
            self.goodput.steps += 1
            self.step_watch.add(step, batch["index"], report)
            progress.show(step, f"epoch {epoch + 1}/{self.num_epochs}")
            if step % self.config.training.log_every_n_steps == 0 or step == last:
                self._log_step(step, jax.device_get(report), self.stopwatch.read(), progress)
                self.step_watch.read()
            self.agreement.poll(self._save_is_due())
            if self.agreement.save_is_due:
                self._save(state, step, iterator)
        return state, step

    def _next_batch(self, iterator: BatchIterator) -> Batch:
        """Raises DatasetError, which names the clip or the cause, also where there is no room for what reading processes share."""
        try:
            return next(iterator)
        except OSError as error:
            if error.errno != errno.ENOSPC or not self.config.data.num_workers:
                raise
            raise DatasetError(
                f"/dev/shm is too small for {self.config.data.num_workers} reading processes; give it more room (docker: --shm-size), "
                "or set config.data.num_workers=0 to read in threads"
            ) from error

    def _train_step(self, frozen: bool) -> Any:
        if frozen not in self.train_steps:
            training = with_flat_start(self.config.training, self.rates.cycle_steps)
            step = make_train_step(
                self.definition,
                self.optimizer,
                training,
                self.mesh,
                self.shardings,
                frozen_backbone=frozen,
            )
            self.train_steps[frozen] = CompiledSteps(step)
        return self.train_steps[frozen]

    def _compile_steps(self, first: int) -> None:
        """All programs that the steps from `first` on run, the largest first.

        Raises DeviceMemoryError where that needs more than a device has, before any step is made.
        """
        thaw = min(self.config.model.encoder.freeze_epochs * self.steps_per_epoch, self.total_steps)
        parts = {
            False: (max(first, thaw), self.total_steps),
            True: (first, thaw),
        }  # by whether the backbone is frozen
        wanted = [
            (frames, frozen)
            for frozen, part in parts.items()
            if part[0] < part[1]
            for frames in self.batches.frames_of_steps(*part)
        ]
        wanted.sort(key=lambda one: (-one[0], one[1]))
        lengths = ", ".join(
            f"{frames} frames" + " (backbone frozen)" * frozen for frames, frozen in wanted
        )
        log.info("compiling the training step for clips of %s", lengths)
        begin = time.perf_counter()
        for number, (frames, frozen) in enumerate(wanted):
            batch = self._taught_shapes(frames)
            program = self._train_step(frozen).compile(self.abstract_state, batch)
            if number == 0:
                check_fits(self.config, self.mesh, step_memory(self.abstract_state, batch, program))
        log.info("compiled in %.1f s", time.perf_counter() - begin)

    def _taught_shapes(self, frames: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Of a batch of clips of so many frames as the step takes it; what a teacher needs for it is compiled."""
        batch = batch_shapes(
            self.config, self.mesh, frames, self.data.text_length, self.data.gloss_length
        )
        if self.teacher is None:
            return batch
        self.teacher.compile(batch)
        return self.teacher.taught_shapes(batch)

    @staticmethod
    def _device_part(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: value for name, value in batch.items() if name != "index"}

    def _log_step(
        self, step: int, report: StepReport, speed: dict[str, float], progress: TrainingProgress
    ) -> None:
        figures = {
            "loss": float(report.loss.total),
            "ce": float(report.loss.ce),
            "ctc": float(report.loss.ctc),
            "ctc_impossible": float(report.loss.impossible),
            "grad_norm": float(report.grad_norm),
            "nonfinite_steps": float(report.nonfinite_total),
            **{name: float(value) for name, value in report.taught.items()},
            **self.rates.used(step, report),
            **speed,
        }
        self.metrics.write(step, {f"train/{name}": value for name, value in figures.items()})
        progress.show(
            step,
            f"epoch {(step - 1) // self.steps_per_epoch + 1}/{self.num_epochs}",
            f"loss {figures['loss']:.3f} | {speed['clips_per_second']:.1f} clips/s | data wait {speed['data_wait']:.0%}"
            + (f" | MFU {speed['mfu']:.0%}" if "mfu" in speed else ""),
        )

    # Epochs

    def _finish_epoch(
        self, state: TrainState, step: int, iterator: BatchIterator, progress: TrainingProgress
    ) -> bool:
        """Evaluation, checkpoint and samples at an epoch's end; True if the run is to stop early."""
        training = self.config.training
        epoch = step // self.steps_per_epoch
        evaluated = None
        if self._evaluation_is_due(epoch):
            progress.show(step, f"epoch {epoch}/{self.num_epochs}, validation")
            if not self.has_evaluated and self.saved_step != step:
                # The first evaluation compiles, for minutes where the model is large; with this a signal may end it at once.
                self._save(state, step, iterator)
                self._wait_for_save()
            with self.goodput.spent("eval"):
                evaluated = self._evaluate(state.params if state.ema is None else state.ema, epoch)
            if (
                self.agreement.stopping
            ):  # in the middle of the evaluation: its figures are of a part only
                return False
            self.metrics.write(
                step, {f"validation/{name}": value for name, value in evaluated.items()}
            )
            self.best.update(evaluated[self.best.metric], epoch)
        stop_early = evaluated is not None and self._patience_is_over(epoch)
        if epoch % training.save_every_n_epochs == 0 or epoch == self.num_epochs or stop_early:
            self._save(state, step, iterator, evaluated)
            if evaluated and self.decoded and self.best.epoch == epoch:
                self.calibration.keep(self.decoded, step)
        self._plot()
        if stop_early:
            log.info(
                "stopping early: no better validation %s than %.4g (epoch %d) for %d epochs",
                self.best.metric,
                self.best.value,
                self.best.since,
                training.patience,
            )
        return stop_early

    def _evaluation_is_due(self, epoch: int) -> bool:
        return epoch % self.config.training.eval_every_n_epochs == 0 or epoch == self.num_epochs

    def _patience_is_over(self, epoch: int) -> bool:
        """After the evaluation of `epoch`."""
        patience = self.config.training.patience
        return patience > 0 and self.best.value is not None and epoch - self.best.since >= patience

    def _evaluate(self, params: Any, epoch: int) -> dict[str, float]:
        """Losses over the validation split, and greedy translations of all of it or, where no metric needs them, of a few samples."""
        sums: dict[str, float] = {}
        wants_text = self.best.metric != "loss"
        found: dict[int, dict[str, Hypothesis]] = {}
        for batch in self.data.validation_batches():
            self.agreement.poll()
            if self.agreement.stopping:
                return {}
            with (
                contextlib.nullcontext()
                if self.has_evaluated
                else self.stop.exit_immediately_on_signal()
            ):
                part = jax.device_get(
                    self.eval_step(params, to_device(self._device_part(batch), self.mesh))
                )
                sums = {name: sums.get(name, 0.0) + float(value) for name, value in part.items()}
                if wants_text or len(found) < self.config.training.num_sample_predictions:
                    found |= self.predictor.predict_split(params, [batch])
        self.has_evaluated = True
        training = self.config.training
        ce, ctc = sums["ce"] / max(sums["tokens"], 1.0), sums["ctc"] / max(sums["clips"], 1.0)
        figures = {
            "loss": training.ce_weight * ce + training.ctc_weight * ctc,
            "ce": ce,
            "ctc": ctc,
            "ctc_impossible": sums["impossible"],
        }
        references = {position: self.data.validation.index[position].text for position in found}
        if wants_text:
            texts = [hypotheses["greedy"].text for hypotheses in found.values()]
            scores = self._scores(list(references.values()), texts)
            figures |= {
                "wer": scores.wer,
                "bleu4": scores.bleu4,
                "chrf": scores.chrf,
                "exact_match": scores.exact_match,
                **self._ctc_error(found),
            }
            figures |= self._ctc_evidence(found)
        self.decoded = found if wants_text else {}
        self._show_samples(
            epoch,
            figures,
            [
                (references[p], found[p]["greedy"].text)
                for p in list(found)[: training.num_sample_predictions]
            ],
        )
        return figures

    def _ctc_evidence(self, found: dict[int, dict[str, Hypothesis]]) -> dict[str, float]:
        """What CTC's evidence of signing (decoding.rest) is at least, in all but one of 200 clips: translation takes less for rest."""
        signed = [
            evidence(hypotheses["ctc"].ctc_signs)
            for position, hypotheses in found.items()
            if self.data.validation.index[position].text
        ]
        return {"ctc_evidence": float(np.quantile(signed, 0.005, method="lower"))} if signed else {}

    def _ctc_error(self, found: dict[int, dict[str, Hypothesis]]) -> dict[str, float]:
        """Word error of what CTC spells: where it is trained on glosses, of the clips that have them, and nothing where none has."""
        spells_glosses = self.data.gloss_tokenizer is not None
        entries = {position: self.data.validation.index[position] for position in found}
        references = {
            position: entry.gloss if spells_glosses else entry.text
            for position, entry in entries.items()
        }
        scored = [
            position
            for position, reference in references.items()
            if reference or not spells_glosses
        ]
        if not scored:
            return {}
        texts = [found[position]["ctc"].text for position in scored]
        return {
            "ctc_wer": self._scores(
                [references[position] for position in scored], texts, glosses=spells_glosses
            ).wer
        }

    def _scores(self, references: list[str], texts: list[str], *, glosses: bool = False) -> Scores:
        tokenize, lowercase = self.config.evaluation.tokenize, self.config.tokenizer.lowercase
        return score(references, texts, tokenize=tokenize, lowercase=lowercase, glosses=glosses)

    def _plot(self, at_once: bool = False) -> None:
        """Redraws metrics.png, at most once a minute: it takes longer than an epoch of a small run."""
        if jax.process_index() == 0 and (at_once or time.monotonic() - self.last_plot > 60):
            self.plot.attempt(self._draw_plot)
            self.last_plot = time.monotonic()

    def _draw_plot(self) -> None:
        plot_metrics(
            self.workdir.metrics_csv,
            self.workdir.metrics_png,
            self.best.metric,
            self.checkpoints.best_step(),
        )

    def _show_samples(
        self, epoch: int, figures: dict[str, float], samples: list[tuple[str, str]]
    ) -> None:
        log.info(
            "epoch %d: validation %s",
            epoch,
            ", ".join(f"{name} {value:.4g}" for name, value in figures.items()),
        )
        lines = [
            f"  reference: {reference}\n  greedy:    {hypothesis}"
            for reference, hypothesis in samples
        ]
        if lines and jax.process_index() == 0:
            log.info("samples\n%s", "\n".join(lines))
            file = self.workdir.samples / f"epoch_{epoch:04d}.txt"
            self.samples.attempt(lambda: self.workdir.write_text(file, "\n\n".join(lines) + "\n"))

    # Checkpoints

    def _initial_state(self, *, padded: bool = True) -> TrainState:
        seed, width = self.config.training.seed, self.config.model.decoder.hidden_dim
        projection = initial_projection(width, self.teacher.width, seed) if self.teacher else None
        return new_state(
            self.definition,
            self.optimizer,
            seed,
            self.mesh if padded else None,
            projection,
            thaws=self.thaws,
        )

    def _earlier_rates(self) -> Rates:
        training = self.earlier.training
        return Rates(training, num_epochs(training, len(self.data.train)), self.steps_per_epoch)

    def _is_or_was_frozen(self) -> bool:
        """Whether the backbone is frozen at first, or was before the settings changed."""
        if self._frozen_epochs_so_far() or self.config.model.encoder.freeze_epochs:
            return True
        latest = self.checkpoints.latest_step()
        return latest is not None and bool(self.checkpoints.noted(latest, _THAWED_AT))

    def _frozen_epochs_so_far(self) -> int:
        return (self.earlier or self.config).model.encoder.freeze_epochs

    def _thawed_at(self, meta: dict[str, Any], step: int, nonfinite: int) -> jax.Array | None:
        """What a checkpoint notes, or, of an earlier release, what its step and the settings say."""
        if not self.thaws:
            return None
        made = meta.get(_THAWED_AT)
        if made is None:
            made = max(
                min(step, self._frozen_epochs_so_far() * self.steps_per_epoch) - nonfinite, 0
            )
        return jax.device_put(np.int32(made), replicated(self.mesh))

    def _restore(self, iterator: BatchIterator) -> TrainState:
        """The newest good checkpoint, the data's position included, or a fresh state."""
        latest, wanted = self.checkpoints.latest_step(), self.saved_state
        if latest is None or self.checkpoints.is_converted(latest):
            return self._fresh_state(converted=latest is not None)
        restored = self.checkpoints.restore(
            wanted.params, _beside_params(wanted), wanted.ema, iterator
        )
        if restored.meta["best"]["metric"] == self.best.metric:
            self.best = BestSoFar(**restored.meta["best"])
        self.resumed_after_evaluation = bool(restored.meta["validation"])
        self.saved_step = restored.step
        self.goodput.steps_replayed = self.metrics.rewind(restored.step)
        log.info("resumed from the checkpoint of step %d", restored.step)
        thawed_at = self._thawed_at(
            restored.meta, restored.step, int(restored.opt_state["nonfinite_total"])
        )
        state = TrainState(
            params=restored.params, ema=restored.ema, thawed_at=thawed_at, **restored.opt_state
        )
        return reshard_like(state, self.abstract_state)

    def _fresh_state(self, *, converted: bool) -> TrainState:
        """The state before the first step, with the weights that the run is to start from."""
        state = jax.jit(self._initial_state, out_shardings=self.shardings)()
        if converted:
            model = self.checkpoints.restore_params("last", self.saved_state.params).params
            log.info("starting from the converted weights in %s", self.checkpoints.folder)
            return replace_params(state, reshard_like(model, self.abstract_state.params))
        if self.pretrained is None:
            return state
        shapes = {
            path: leaf.shape
            for path, leaf in traverse_util.flatten_dict(
                state.params["encoder"]["backbone"], sep="/"
            ).items()
        }
        backbone = self.pretrained.parameters(self.config.model.encoder, shapes)
        log.info(
            "the backbone starts from %s: %s, %d tensors",
            self.pretrained.path,
            self.pretrained.layout,
            len(self.pretrained.tensors),
        )
        return replace_params(
            state, {"encoder": {"backbone": traverse_util.unflatten_dict(backbone, sep="/")}}
        )

    def _save_is_due(self) -> bool:
        minutes = self.config.training.save_every_n_minutes
        return minutes > 0 and time.monotonic() - self.last_save >= 60 * minutes

    def _save(
        self,
        state: TrainState,
        step: int,
        iterator: BatchIterator,
        evaluated: dict[str, float] | None = None,
    ) -> None:
        meta = {
            "step": step,
            "epoch": step / self.steps_per_epoch,
            "best": dataclasses.asdict(self.best),
            "validation": evaluated or {},
        }
        meta[_THAWED_AT] = 0 if state.thawed_at is None else int(state.thawed_at)
        self.goodput.saving(step)
        with self.goodput.spent("save"):
            self.keep_whole()
            state = reshard_like(state, self.saved_state)
            self.checkpoints.save(
                step, state.params, _beside_params(state), meta, iterator, state.ema, evaluated
            )
        self.agreement.saved()
        self.saved_step, self.last_save = step, time.monotonic()

    def _wait_for_save(self) -> None:
        with self.goodput.spent("save"):
            self.checkpoints.wait()

    def _description(self, step: int) -> str:
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.saved_state.params))
        return (
            f"{parameters:,} parameters; {len(self.data.train):,} training and {len(self.data.validation):,} validation clips; "
            f"{self.data.tokenizer.vocab_size:,} tokens; {jax.device_count()} x {jax.devices()[0].device_kind}; "
            f"{self.steps_per_epoch:,} steps an epoch, at step {step:,} of {self.total_steps:,}"
        )


def _beside_params(state: TrainState) -> dict[str, Any]:
    """What training needs besides the parameters and evaluation does not."""
    names = ("opt_state", "step", "nonfinite_in_row", "nonfinite_total", "projection")
    return {name: value for name in names if (value := getattr(state, name)) is not None}
