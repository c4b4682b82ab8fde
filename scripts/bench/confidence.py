"""Compare statistics as confidences: do they separate right sentences from wrong ones?

    python scripts/bench/confidence.py --workdir=runs/small --features=runs/small/features

For each statistic the table shows how well it separates them (AUC), and the calibration error of a
scale that was fitted on the validation split. The numbers are of clips of the test split only. The
last row of each decoder is what `signvit eval --calibrate` keeps.

Both splits are decoded once, greedily and by beam search, into npz files in the folder --features.
Existing files are used again: delete them after the model was trained again.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from signvit_jax.data.dataset import Split, open_dataset
from signvit_jax.data.pipeline import make_batches
from signvit_jax.data.token_table import padded_text_length
from signvit_jax.decoding.autoregressive import Source
from signvit_jax.decoding.beam_search import beam_search
from signvit_jax.decoding.confidence import fit_scale, statistics, word_key
from signvit_jax.decoding.ctc import greedy_ctc
from signvit_jax.decoding.greedy import greedy
from signvit_jax.decoding.lexicon import Lexicon
from signvit_jax.decoding.search_options import SearchOptions
from signvit_jax.evaluation.confidence_reliability import is_right, reliability
from signvit_jax.evaluation.confidence_scales import lexicon_of
from signvit_jax.inference.loading import load_model
from signvit_jax.inference.trained_model import TrainedModel
from signvit_jax.text.words import word_confidences

DECODERS = ("greedy", "beam")
Example = Mapping[str, np.ndarray]


def decode(model: TrainedModel, split: Split, file: Path) -> None:
    """Decode a split and save hypotheses and model outputs to an npz file, a row for each clip.

    Its keys are, with n clips of l tokens and t frames:
    - for each of `DECODERS`, after its name and "_" (such as greedy_tokens):
      tokens (n, l), length (n), log_probs (n, l) of the tokens,
      top (n, l, 2) the two largest log-probabilities, entropy (n, l) of the outputs,
      attention (n, l, t) to frames,
      n_best (n, l), or (n, m, l) of m hypotheses: log-probabilities of their tokens
    - after "ctc_": the fields of `greedy_ctc`, and steps (n)
    - index (n): the clip's number in the split
    """
    options = SearchOptions(
        bos_id=model.tokenizer.bos_id, eos_id=model.tokenizer.eos_id, beam_size=4, n_best=4
    )

    @jax.jit
    def run(params, video, lengths):
        translator = model.definition.bind(params)
        encoded = translator.encode(video, lengths)
        source = Source(translator.decoder, *translator.memory(encoded))
        by_decoder = {
            "greedy": greedy(source, options),
            "beam": beam_search(source, options),
        }
        rows = {}
        for name, hypotheses in by_decoder.items():
            first = hypotheses
            if name == "beam":
                first = jax.tree.map(lambda field: field[:, 0], hypotheses)
            log_probs = jax.nn.log_softmax(translator.logits(encoded, first.tokens))
            # Terms with a log-probability below -30 are under 3e-12 and count as 0. That includes
            # -inf, for which the product would be NaN.
            entropy = -jnp.where(log_probs > -30, jnp.exp(log_probs) * log_probs, 0.0).sum(-1)
            outputs = {
                "tokens": first.tokens,
                "length": first.lengths,
                "log_probs": first.token_log_probs,
                "top": jax.lax.top_k(log_probs, 2)[0],
                "entropy": entropy,
                "attention": translator.frame_weights(encoded, first.tokens),
                "n_best": hypotheses.token_log_probs,
            }
            rows |= {f"{name}_{key}": value for key, value in outputs.items()}
        logits, steps = translator.ctc_logits(encoded)
        path = greedy_ctc(logits, steps)._asdict()
        rows |= {f"ctc_{key}": value for key, value in path.items()}
        return rows | {"ctc_steps": steps}

    text_length = padded_text_length(split, model.tokenizer, model.config.model.decoder.max_len)
    rows: dict[str, list[np.ndarray]] = {}
    longest = model.config.frame_buckets[-1]
    for batch in make_batches(
        split, model.tokenizer, model.config, batch_size=16, training=False, text_length=text_length
    ):
        outputs = jax.device_get(
            run(model.params, jnp.asarray(batch["video"]), jnp.asarray(batch["frame_lengths"]))
        )
        is_clip = np.asarray(batch["index"]) >= 0  # padding rows have -1
        for key, value in (outputs | {"index": batch["index"]}).items():
            value = np.asarray(value)[is_clip]
            # The last axis of these has the length of the bucket: pad it to the longest one.
            if key.endswith("attention") or (key.startswith("ctc_") and value.ndim == 2):
                padding = [(0, 0)] * (value.ndim - 1) + [(0, longest - value.shape[-1])]
                value = np.pad(value, padding)
            rows.setdefault(key, []).append(value)
    file.parent.mkdir(parents=True, exist_ok=True)
    arrays = {key: np.concatenate(values) for key, values in rows.items()}
    np.savez_compressed(file, allow_pickle=False, **arrays)


def clip_statistics(
    example: Example, decoder: str, model: TrainedModel, lexicon: Lexicon | None
) -> dict[str, float]:
    """Return the statistics of one clip by name; larger means more confident."""
    length = int(example[f"{decoder}_length"])
    steps = int(example["ctc_steps"])
    labels = int(example["ctc_lengths"])
    # Index 0 is BOS; the outputs at i predict token i + 1.
    log_probs = example[f"{decoder}_log_probs"][1:length]
    probabilities = np.exp(log_probs)
    top = example[f"{decoder}_top"][: length - 1]
    entropy = example[f"{decoder}_entropy"][: length - 1]
    margins = top[:, 0] - top[:, 1]
    tokens = example[f"{decoder}_tokens"][:length].tolist()
    words = word_confidences(
        tokens, np.exp(example[f"{decoder}_log_probs"][:length]).tolist(), model.tokenizer.decode
    )
    ctc_text = model.ctc_tokenizer.decode(example["ctc_ids"][:labels].tolist())
    ours, _ = statistics(
        decoder,
        score=0.0,
        probabilities=probabilities.tolist(),
        words=words,
        ctc_text=ctc_text,
        lexicon=lexicon,
    )
    attention = example[f"{decoder}_attention"][: length - 1, :steps]
    # For each CTC label: the most attention that one token pays to the label's frames.
    attended = [
        attention[:, start:end].sum(1).max()
        for start, end in zip(example["ctc_starts"][:labels], example["ctc_ends"][:labels])
    ]
    values = {
        "mean token probability (the uncalibrated confidence)": probabilities.mean(),
        "least probable token": log_probs.min(),
        "mean log-probability": log_probs.mean(),
        "log-probability of the sentence": log_probs.sum(),
        "the three least probable tokens": np.sort(log_probs)[:3].sum(),
        "least margin to the second token": margins.min(),
        "margins of all tokens (log-sigmoid)": -np.logaddexp(0.0, -margins).sum(),
        "highest entropy of a token, negated": -entropy.max(),
        "CTC: log-probability of its path, per frame": float(example["ctc_score"]) / steps,
        "CTC: its least probable label": example["ctc_confidence"][:labels].min(initial=1.0),
        "CTC: |labels - words|, negated": -abs(labels - len(words)),
        "CTC's label with the least cross-attention": min(attended, default=0.0),
    }
    if decoder == "beam":
        sums = example["beam_n_best"].sum(-1)
        values["share of the beam's probability"] = sums[0] - np.logaddexp.reduce(sums)
        values["margin to the second hypothesis"] = sums[0] - sums[1:].max()
        values["beam and greedy agree"] = float(
            (example["beam_tokens"] == example["greedy_tokens"]).all()
        )
    if lexicon is not None:
        glosses = [word_key(word) for word in ctc_text.split()]
        keys = [word_key(word) for word in model.tokenizer.decode(tokens).split()]
        missing = max(lexicon.unexplained_glosses(glosses, keys), default=0.0)
        values["signs whose word is missing"] = -min(missing, 1.0)
        extra = max(lexicon.unexplained_words(glosses, keys), default=0.0)
        values["words without a sign"] = -min(extra, 1.0)
    values |= {name: ours[name] for name in ("explained", "agreement") if name in ours}
    return values


# Sets of statistics that are tried together. Each statistic is also tried alone.
COMBINATIONS = (
    ("log-probability of the sentence", "the three least probable tokens"),
    ("margins of all tokens (log-sigmoid)", "CTC's label with the least cross-attention"),
    ("share of the beam's probability", "explained"),
    ("margins of all tokens (log-sigmoid)", "explained"),
    ("log-probability of the sentence", "signs whose word is missing", "words without a sign"),
    ("log-probability of the sentence", "the three least probable tokens", "agreement"),
    ("log-probability of the sentence", "the three least probable tokens", "explained"),
)


def rows_of(
    model: TrainedModel,
    features: Path,
    splits: Mapping[str, Split],
    lexicon: Lexicon | None,
    *,
    fitted_on: str,
    measured_on: str,
) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table: decoder, statistics, AUC, calibration error and its interval."""
    loaded = {name: np.load(features / f"{name}.npz") for name in splits}
    arrays = {name: {key: file[key] for key in file.files} for name, file in loaded.items()}
    for decoder in DECODERS:
        measured: dict[str, list[dict[str, float]]] = {}  # split -> statistics of each clip
        right: dict[str, list[bool]] = {}  # split -> whether each clip's text is right
        for name, split in splits.items():
            examples = [
                {key: value[row] for key, value in arrays[name].items()}
                for row in range(len(arrays[name]["index"]))
            ]
            measured[name] = [
                clip_statistics(example, decoder, model, lexicon) for example in examples
            ]
            texts = [
                model.tokenizer.decode(example[f"{decoder}_tokens"].tolist())
                for example in examples
            ]
            right[name] = [
                is_right(
                    split.index[int(example["index"])].text,
                    text,
                    lowercase=model.config.tokenizer.lowercase,
                )
                for example, text in zip(examples, texts)
            ]
        names = list(measured[measured_on][0])
        combinations = [chosen for chosen in COMBINATIONS if set(chosen) <= set(names)]
        for chosen in [(name,) for name in names] + combinations:
            yield (
                decoder,
                " + ".join(chosen),
                *_figures(chosen, measured, right, fitted_on, measured_on),
            )


def _figures(
    chosen: Sequence[str],
    measured: Mapping[str, list[dict[str, float]]],
    right: Mapping[str, list[bool]],
    fitted_on: str,
    measured_on: str,
) -> tuple[str, str, str]:
    """Return AUC, calibration error and the interval of the latter, of the chosen statistics."""

    def of_clips(split: str) -> list[dict[str, float]]:
        return [{key: float(clip[key]) for key in chosen} for clip in measured[split]]

    scale: Callable[[Mapping[str, float]], float] = fit_scale(of_clips(fitted_on), right[fitted_on])
    result = reliability([scale(clip) for clip in of_clips(measured_on)], right[measured_on])
    low, high = result.ece_interval or (math.nan, math.nan)
    return f"{result.auc:.3f}", f"{result.ece:.3f}", f"{low:.3f}–{high:.3f}"


def main() -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--workdir", required=True)
    flags.add_argument(
        "--features",
        required=True,
        type=Path,
        help="folder of the decoded splits; used again if they exist",
    )
    flags.add_argument("--data_dir", help="default: the run's")
    flags.add_argument("--output", type=Path, help="JSON file with the rows")
    arguments = flags.parse_args()
    model = load_model(arguments.workdir, calibrated=False)
    data = model.config.data
    dataset = open_dataset(arguments.data_dir or data.data_dir, data.name)
    splits = {name: dataset.split(name) for name in (data.val_split, data.test_split)}
    for name, split in splits.items():
        if not (file := arguments.features / f"{name}.npz").exists():
            decode(model, split, file)
    lexicon = lexicon_of(dataset.split(data.train_split).index) if model.gloss_tokenizer else None
    rows = list(
        rows_of(
            model,
            arguments.features,
            splits,
            lexicon,
            fitted_on=data.val_split,
            measured_on=data.test_split,
        )
    )
    header = ("decoder", "statistic", "AUC", "calibration error", "95 % interval")
    print(
        "\n".join("| " + " | ".join(row) + " |" for row in [header, ("---",) * len(header), *rows])
    )
    if arguments.output:
        arguments.output.write_text(
            json.dumps([dict(zip(header, row)) for row in rows], indent=1, ensure_ascii=False)
            + "\n"
        )


if __name__ == "__main__":
    main()
