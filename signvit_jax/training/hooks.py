"""Everything that watches the steps of a run, in one object that is called before and after each.

That is: speed, goodput, the profiler's trace, skipped updates, the progress bar, metrics and the
plot; for TensorBoard also the config, a clip and sample texts.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from types import TracebackType

import jax
from PIL import Image

from signvit_jax.checkpoints.workdir import Workdir
from signvit_jax.config.schema import to_json
from signvit_jax.data.augment import decode_clip
from signvit_jax.data.frame_sampling import sample_frames
from signvit_jax.data.pipeline import Batch, BatchIterator
from signvit_jax.media.contact_sheet import contact_sheet
from signvit_jax.optimization.train_step import StepReport
from signvit_jax.telemetry.goodput import Goodput
from signvit_jax.telemetry.metric_writer import MetricsLog
from signvit_jax.telemetry.observers import Observer
from signvit_jax.telemetry.plots import plot_metrics
from signvit_jax.telemetry.profiler import StepTrace, TracedSteps
from signvit_jax.telemetry.progress import TrainingProgress
from signvit_jax.telemetry.run_log import CONSOLE
from signvit_jax.telemetry.throughput import Stopwatch
from signvit_jax.training.divergence import StepWatch
from signvit_jax.training.run_data import RunData
from signvit_jax.training.save_and_restore import RunCheckpoints
from signvit_jax.training.step_programs import StepPrograms

_SECONDS_PER_PLOT = 60.0  # at least: drawing takes longer than an epoch of a small run


class StepHooks:
    """The watchers of the steps of one start of a run. Steps are counted from 1."""

    def __init__(
        self,
        data: RunData,
        batches: BatchIterator,
        programs: StepPrograms,
        checkpoints: RunCheckpoints,
        metrics: MetricsLog,
        goodput: Goodput,
        workdir: Workdir,
        *,
        steps_done: int,
        profile: TracedSteps | None,
    ):
        """`steps_done`: by earlier starts. `profile`: the steps to trace, if any."""
        training = data.config.training
        self._log_every = training.log_every_n_steps
        self._num_epochs = data.num_epochs
        self._steps_per_epoch = batches.steps_per_epoch
        self._steps_done = steps_done
        self._programs = programs
        self._checkpoints = checkpoints
        self._metrics = metrics
        self._goodput = goodput
        self._workdir = workdir
        self._stopwatch = Stopwatch(programs.definition, programs.mesh)
        self._watch = StepWatch(
            training.max_nonfinite_steps, lambda example: data.train.index[example].id
        )
        self._trace = StepTrace(profile, steps_done, workdir.profile)
        self._progress = TrainingProgress(batches.total_steps, steps_done, CONSOLE)
        self._annotation = contextlib.ExitStack()  # of the step in the profiler's trace
        self._plot = Observer(workdir.metrics_png)
        self._last_plot = time.monotonic()
        if jax.process_index() == 0:
            Observer(workdir.events / "events.*").attempt(lambda: self._describe(data))

    def __enter__(self) -> "StepHooks":
        self._progress.__enter__()
        self._trace.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._annotation.close()
        self._trace.__exit__(kind, error, trace)
        self._progress.__exit__(kind, error, trace)

    def show(self, step: int, description: str) -> None:
        """Show beside the bar what the run is doing."""
        self._progress.show(step, description)

    def start_clock(self) -> None:
        """Estimate the time left from now on: the programs are compiled."""
        self._progress.begin()

    def before(self, step: int) -> None:
        """Begin a step, before its batch is taken."""
        if step == self._steps_done + 1 or (step - 1) % self._steps_per_epoch == 0:
            self._stopwatch.start()  # without the time of a validation
        self._annotation.enter_context(self._trace.step(step))

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Charge the time until the end of the context to the wait for a batch."""
        begin = time.perf_counter()
        with self._goodput.time_as("data"):
            yield
        self._stopwatch.add_wait(time.perf_counter() - begin)

    def after(self, step: int, batch: Batch, report: StepReport) -> None:
        """End a step, once it is dispatched. Waits until the step before it is done.

        Raises TrainingDivergedError if too many updates in a row were skipped.
        """
        self._annotation.close()
        self._trace.done(step, report)
        self._goodput.steps += 1
        self._stopwatch.add_batch(batch, frozen_backbone=self._programs.is_frozen(step - 1))
        self._watch.add(step, batch["index"], report)
        self._progress.show(step, self._epoch_of(step))
        if step % self._log_every == 0 or step % self._steps_per_epoch == 0:
            self._log_step(step, jax.device_get(report), self._stopwatch.read())
            self._watch.read()

    def log_validation(
        self, step: int, metrics: dict[str, float], samples: Sequence[tuple[str, str]]
    ) -> None:
        """Write the metrics of a validation after `step` updates, and (reference, hypothesis)."""
        self._metrics.write(step, {f"validation/{name}": value for name, value in metrics.items()})
        if samples:
            self._metrics.show(step, {"validation/samples": _markdown_table(samples)})

    def plot(self, at_once: bool = False) -> None:
        """Redraw metrics.png, at most once a minute unless `at_once`."""
        due = time.monotonic() - self._last_plot > _SECONDS_PER_PLOT
        if jax.process_index() == 0 and (at_once or due):
            self._plot.attempt(self._draw_plot)
            self._last_plot = time.monotonic()

    def _describe(self, data: RunData) -> None:
        """Show the config and the frames of a validation clip beside the curves."""
        shown: dict[str, str | Image.Image] = {
            "config": f"    {to_json(data.config)}".replace("\n", "\n    ")  # a code block
        }
        if len(data.validation):
            settings = data.config.data
            record = data.validation[0]
            chosen = sample_frames(
                len(record["video"]), record["fps"], settings, settings.num_frames
            )
            frames = decode_clip(
                [record["video"][number] for number in chosen],
                settings.image_size,
                settings.resize_mode,
            )
            shown["validation/clip"] = contact_sheet(frames)
        self._metrics.show(self._steps_done, shown)

    def _draw_plot(self) -> None:
        plot_metrics(
            self._workdir.metrics_csv,
            self._workdir.metrics_png,
            self._checkpoints.best.metric,
            self._checkpoints.store.best_step(),
        )

    def _log_step(self, step: int, report: StepReport, speed: dict[str, float]) -> None:
        """Write the metrics of a step, given its report on the host."""
        losses = dict(report.loss.metrics)
        metrics = {
            "loss": report.loss.total,
            **{name: losses.pop(name) for name in ("ce", "ctc", "ctc_impossible")},
            "grad_norm": report.grad_norm,
            "nonfinite_steps": report.nonfinite_total,
            **losses,
            **self._programs.rates.used(step, report),
            **speed,
        }
        self._metrics.write(
            step, {f"train/{name}": float(value) for name, value in metrics.items()}
        )
        shown = (
            f"loss {metrics['loss']:.3f} | {speed['clips_per_second']:.1f} clips/s | "
            f"data wait {speed['data_wait']:.0%}"
        )
        if "mfu" in speed:
            shown += f" | MFU {speed['mfu']:.0%}"
        self._progress.show(step, self._epoch_of(step), shown)

    def _epoch_of(self, step: int) -> str:
        return f"epoch {(step - 1) // self._steps_per_epoch + 1}/{self._num_epochs}"


def _markdown_table(samples: Sequence[tuple[str, str]]) -> str:
    """A table of references and hypotheses, without bars and line breaks that would end a cell."""
    lines = ["| reference | greedy |", "|---|---|"]
    for texts in samples:
        cells = (" ".join(text.split()).replace("|", "\\|") for text in texts)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
