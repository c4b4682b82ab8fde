"""Validation during a run: losses, translation quality, samples, and scales of confidences."""

import contextlib
import functools
import logging
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import PyTree

from signvit_jax.checkpoints.workdir import Workdir
from signvit_jax.evaluation.metrics import Scores, score
from signvit_jax.inference.predictor import Hypothesis, Predictor
from signvit_jax.inference.resting import evidence
from signvit_jax.models.definition import bind_gathered
from signvit_jax.models.translator import SignTranslator
from signvit_jax.optimization.train_step import make_eval_step
from signvit_jax.runtime.consensus import StopConsensus
from signvit_jax.runtime.signals import StopRequest
from signvit_jax.telemetry.observers import Observer
from signvit_jax.training.confidence_calibration import RunCalibration
from signvit_jax.training.run_data import RunData
from signvit_jax.training.step_programs import StepPrograms, device_batch

log = logging.getLogger(__name__)

# In the runs of docs/learning.md, CTC left the blank within this many steps, or never.
PLATEAU_STEPS = 750
_PLATEAU_SHARE = 0.95

Hypotheses = dict[int, dict[str, Hypothesis]]  # position in the split -> decoder -> hypothesis


class PlateauNotice:
    """A warning that CTC still outputs nothing but the blank, and a message once that has ended.

    `due`: number of updates before the warning. In runs that succeed, CTC leaves the blank sooner.
    """

    def __init__(self, due: int):
        self._due = due
        self._has_warned = False

    def check(self, step: int, blank_share: float | None) -> None:
        """Check the share of validation clips, after `step` updates, with nothing but the blank."""
        if blank_share is None or step < self._due:
            return
        if blank_share >= _PLATEAU_SHARE and not self._has_warned:
            self._has_warned = True
            log.warning(
                "CTC has not left the blank after %s steps: it finds no sign in %.0f%% of the "
                "validation clips, and until it does the texts are guesses. See docs/learning.md",
                f"{step:,}",
                100 * blank_share,
            )
        elif blank_share < _PLATEAU_SHARE and self._has_warned:
            self._has_warned = False
            log.info("CTC has left the blank: it finds signs in %.0f%%", 100 * (1 - blank_share))


class ValidationPass:
    """Evaluation of the model on the validation split.

    The losses are of all clips. Greedy and CTC hypotheses are of all clips too or, if
    `training.best_metric` is the loss, of the few that are shown as samples.
    """

    def __init__(
        self,
        data: RunData,
        programs: StepPrograms,
        consensus: StopConsensus,
        stop: StopRequest,
        workdir: Workdir,
    ):
        self._config = data.config
        self._data = data
        self._mesh = programs.mesh
        self._consensus = consensus
        self._stop = stop
        self._workdir = workdir
        self._eval_step = make_eval_step(
            programs.definition, data.config.training, programs.mesh, programs.shardings.params
        )

        def bind(params: PyTree) -> SignTranslator:
            return bind_gathered(programs.definition, params, programs.mesh)

        self._make_predictor = functools.partial(
            Predictor,
            bind,
            data.tokenizer,
            data.vocabularies.ctc,
            data.config.inference,
            programs.mesh,
        )
        self._predictor = self._make_predictor(["greedy", "ctc"])
        self._samples = Observer(workdir.samples)
        self._calibration = RunCalibration(data, workdir)
        self._needs_hypotheses = data.config.training.best_metric != "loss"
        self._complete: Hypotheses = {}  # of the last pass, if it decoded the complete split
        self.samples: list[tuple[str, str]] = []  # of the last pass: (reference, greedy hypothesis)
        # Share of the last pass's clips of signing for which CTC output only the blank; None if it
        # did not decode the complete split.
        self.blank_share: float | None = None
        self.is_compiled = False  # the first pass compiles its programs

    def run(self, params: PyTree, epoch: int) -> dict[str, float] | None:
        """Return the metrics of the parameters, and log them with a few samples.

        None if a signal stopped the pass.
        """
        training = self._config.training
        sums: dict[str, float] = {}
        by_position: Hypotheses = {}
        for batch in self._data.validation_batches():
            self._consensus.poll()
            if self._consensus.stopping:
                return None
            # Compiling takes minutes, and a signal need not wait for it: the state has been saved.
            signals = contextlib.nullcontext if self.is_compiled else self._exit_on_signal
            with signals():
                part = jax.device_get(self._eval_step(params, device_batch(batch, self._mesh)))
                sums = {name: sums.get(name, 0.0) + float(value) for name, value in part.items()}
                if self._needs_hypotheses or len(by_position) < training.num_sample_predictions:
                    by_position |= self._predictor.predict_split(params, [batch])
        self.is_compiled = True
        metrics = self._losses(sums)
        if self._needs_hypotheses:
            metrics |= self._quality(by_position)
            if training.ctc_weight > 0.0:
                self.blank_share = self._blank_share(by_position)
            self._complete = by_position
        self._log(epoch, metrics, by_position)
        return metrics

    def keep_calibration(self, params: PyTree, step: int, *, is_last: bool) -> None:
        """Fit the scales of confidences on the last pass, and write them for the step's checkpoint.

        If the lexicon reranks the texts of beam search, the last checkpoint of a run also gets a
        scale for these: they are right more often than greedy texts of the same probability. This
        decodes every validation clip once more. A signal ends it early, without that scale.
        """
        calibration = self._calibration
        if not self._complete or not calibration.is_kept:
            return
        by_position = self._complete
        if is_last and self._config.inference.lexicon_weight and calibration.lexicon:
            ranked = self._ranked_beam(params, step)
            if ranked is not None:
                by_position = {
                    position: {**hypotheses, "beam": ranked[position]["beam"]}
                    for position, hypotheses in by_position.items()
                }
        calibration.keep(by_position, step)

    def _ranked_beam(self, params: PyTree, step: int) -> Hypotheses | None:
        """Return the texts of beam search, ranked by the lexicon; None if a signal stopped it."""
        predictor = self._make_predictor(
            ["beam"], calibration=self._calibration.without_scales(step)
        )
        by_position: Hypotheses = {}
        for batch in self._data.validation_batches():
            self._consensus.poll()
            if self._consensus.stopping:
                return None
            by_position |= predictor.predict_split(params, [batch])
        return by_position

    def _exit_on_signal(self) -> contextlib.AbstractContextManager[None]:
        return self._stop.exit_immediately_on_signal()

    def _losses(self, sums: dict[str, float]) -> dict[str, float]:
        """Return the losses, by the sums of all batches."""
        training = self._config.training
        ce = sums["ce"] / max(sums["tokens"], 1.0)
        ctc = sums["ctc"] / max(sums["clips"], 1.0)
        loss = training.ce_weight * ce + training.ctc_weight * ctc
        of_glosses = {}
        if "gloss_ce" in sums:
            gloss_ce = sums["gloss_ce"] / max(sums["tokens"], 1.0)
            loss += training.gloss_ce_weight * gloss_ce
            of_glosses = {"gloss_ce": gloss_ce}
        return {
            "loss": loss,
            "ce": ce,
            "ctc": ctc,
            **of_glosses,
            "ctc_impossible": sums["ctc_impossible"],
        }

    def _quality(self, by_position: Hypotheses) -> dict[str, float]:
        """Return the metrics of the hypotheses."""
        index = self._data.validation.index
        references = [index[position].text for position in by_position]
        texts = [hypotheses["greedy"].text for hypotheses in by_position.values()]
        scores = self._score(references, texts)
        return {
            "wer": scores.wer,
            "bleu4": scores.bleu4,
            "chrf": scores.chrf,
            "exact_match": scores.exact_match,
            **self._ctc_error(by_position),
            **self._ctc_evidence(by_position),
        }

    def _ctc_error(self, by_position: Hypotheses) -> dict[str, float]:
        """Return the word error of CTC's texts.

        If CTC spells glosses, it is that of the clips with a gloss; {} if no clip has one.
        """
        spells_glosses = self._data.gloss_tokenizer is not None
        references, texts = [], []
        for position, hypotheses in by_position.items():
            entry = self._data.validation.index[position]
            reference = entry.gloss if spells_glosses else entry.text
            if reference or not spells_glosses:
                references.append(reference)
                texts.append(hypotheses["ctc"].text)
        if not references:
            return {}
        return {"ctc_wer": self._score(references, texts, glosses=spells_glosses).wer}

    def _ctc_evidence(self, by_position: Hypotheses) -> dict[str, float]:
        """Return the evidence of signing by CTC that the model's clips with a text reach."""
        signed = [
            evidence(hypotheses["ctc"].ctc_signs)
            for position, hypotheses in by_position.items()
            if self._data.validation.index[position].text
        ]
        if not signed:
            return {}
        return {"ctc_evidence": reached_evidence(signed, self._config.inference.rest_evidence)}

    def _blank_share(self, by_position: Hypotheses) -> float | None:
        signed = [
            hypotheses["ctc"].text
            for position, hypotheses in by_position.items()
            if self._data.validation.index[position].text
        ]
        return sum(not text for text in signed) / len(signed) if signed else None

    def _score(self, references: list[str], texts: list[str], *, glosses: bool = False) -> Scores:
        return score(
            references,
            texts,
            tokenize=self._config.evaluation.tokenize,
            lowercase=self._config.tokenizer.lowercase,
            glosses=glosses,
        )

    def _log(self, epoch: int, metrics: dict[str, float], by_position: Hypotheses) -> None:
        listed = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        log.info("epoch %d: validation %s", epoch, listed)
        index = self._data.validation.index
        self.samples = [
            (index[position].text, by_position[position]["greedy"].text)
            for position in list(by_position)[: self._config.training.num_sample_predictions]
        ]
        samples = [
            f"  reference: {reference}\n  greedy:    {hypothesis}"
            for reference, hypothesis in self.samples
        ]
        if samples and jax.process_index() == 0:
            log.info("samples\n%s", "\n".join(samples))
            file = self._workdir.samples / f"epoch_{epoch:04d}.txt"
            text = "\n\n".join(samples) + "\n"
            self._samples.attempt(lambda: self._workdir.write_text(file, text))


def reached_evidence(signed: Sequence[float], limit: float) -> float:
    """Return the evidence of signing that signed clips reach.

    `signed`: the evidence of each validation clip with a text. Translation takes a clip with less
    evidence than the result (or than its own limit) for rest (`inference/resting.py`).

    If 19 of 20 clips reach `limit` (of the config), the result is what 19 of 20 reach. Every
    validation split has a few clips in which CTC finds hardly any sign; a threshold as low as their
    evidence would take rest for signing. A model with less evidence in general gets a lower
    threshold: what 199 of 200 clips reach.
    """
    reached_by_19_of_20, reached_by_199_of_200 = np.quantile(signed, (0.05, 0.005), method="lower")
    return float(reached_by_19_of_20 if reached_by_19_of_20 >= limit else reached_by_199_of_200)
