"""Count the texts that `inference.rest_evidence` suppresses, in clips of rest and of signing.

    python scripts/bench/resting_signers.py --workdir=runs/small --rests=100 --signing=400

The model is `small`, or another that was trained on synthetic_signs. drawn_recordings.py draws the
clips of rest, of kinds that are not in the training data. docs/recordings.md has the results.
"""

import argparse
import sys

import numpy as np
from drawn_recordings import RATE, RESTS, rest

from signvit_jax import load_translator
from tfds_builders.synthetic_signs.clips import Options, draw_clip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument(
        "--rests", type=int, default=100, help="clips of rest, equally many of each kind (100)"
    )
    parser.add_argument("--signing", type=int, default=400, help="clips with signing (400)")
    parser.add_argument("--decode", default="greedy")
    flags = parser.parse_args()
    translator = load_translator(flags.workdir)
    threshold = min(translator.model.config.inference.rest_evidence, translator.model.min_evidence)
    print(
        f"{flags.workdir}, step {translator.model.step}, --decode={flags.decode}, "
        f"threshold {threshold:.2f}"
    )

    def count_texts(clips: list[np.ndarray]) -> tuple[int, int, np.ndarray]:
        """Return the number of clips with text, the same without a threshold, and the evidence.

        The evidence (n,) is CTC's evidence for signs in each clip.
        """
        translations = translator.translate(clips, decode=flags.decode, fps=RATE)
        without = translator.translate(clips, decode=flags.decode, fps=RATE, rest_evidence=0.0)
        return (
            sum(bool(one.text) for one in translations),
            sum(bool(one.text) for one in without),
            np.array([one.evidence for one in translations]),
        )

    total, count = 0, flags.rests // len(RESTS)
    for kind in RESTS:
        text, without, evidence = count_texts([rest(kind, number) for number in range(count)])
        total += text
        print(
            f"{kind}: text in {text} of {count} clips, without a threshold in {without}; "
            f"evidence up to {evidence.max():.2f}",
            flush=True,
        )
    text, without, evidence = count_texts(
        [draw_clip(0, "test", number, Options())[0] for number in range(flags.signing)]
    )
    print(f"rest: text in {total} of {count * len(RESTS)}, {total / count / len(RESTS):.1%}")
    print(
        f"signing: lost {without - text} of {without}, {(without - text) / without:.1%}; "
        f"evidence from {evidence.min():.2f}, 1 % below {np.quantile(evidence, 0.01):.2f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
