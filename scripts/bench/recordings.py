"""Measure the word error rate of long recordings, and of their held-out clips translated alone.

    python scripts/bench/recordings.py --workdir=runs/small --recordings=20 --seconds=60

Recordings go through `translate` and `stream` with default windows and limits. The model is one of
configs/small.py or another that was trained on synthetic_signs. docs/recordings.md has the result.
"""

import argparse
import sys
import time

from drawn_recordings import RATE, many_takes, one_take

from signvit_jax import load_translator
from signvit_jax.evaluation.metrics import score


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--recordings", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument(
        "--pause", type=float, default=3.0, help="longest pause in seconds; pauses start at 0 (3)"
    )
    parser.add_argument("--decode", default="greedy")
    parser.add_argument("--ways", default="translate,stream")
    parser.add_argument("--takes", default="one_take,many_takes")
    parser.add_argument(
        "--show", action="store_true", help="print reference and output of each recording"
    )
    flags = parser.parse_args()
    translator = load_translator(flags.workdir)
    print(
        f"{flags.workdir}, step {translator.model.step}, --decode={flags.decode}, "
        f"{flags.recordings} recordings of {flags.seconds:g} s, pauses to {flags.pause:g} s"
    )
    for take in flags.takes.split(","):
        draw = {"one_take": one_take, "many_takes": many_takes}[take]
        recordings = [
            draw(number, flags.seconds, flags.pause) for number in range(flags.recordings)
        ]
        clips = [clip for recording in recordings for clip in recording.clips]
        alone = translator.translate([frames for frames, _ in clips], decode=flags.decode, fps=RATE)
        references = [text for _, text in clips]
        clip_wer = score(references, [translation.text for translation in alone]).wer
        print(
            f"{take}: {len(clips)} clips alone, WER {clip_wer:.2%}, "
            f"without text {sum(not translation.text for translation in alone)}; "
            f"recordings should have at most {1.25 * clip_wer + 0.02:.2%}",
            flush=True,
        )
        for way in flags.ways.split(","):
            start = time.perf_counter()
            outputs = []
            for recording in recordings:
                if way == "translate":
                    segments = translator.translate(
                        recording.frames, decode=flags.decode, fps=RATE
                    ).segments
                else:
                    updates = translator.stream(
                        iter(recording.frames), decode=flags.decode, fps=RATE
                    )
                    segments = [segment for update in updates for segment in update.final]
                outputs.append(" ".join(segment.text for segment in segments))
                if flags.show:
                    print(
                        f"  reference: {' | '.join(text for _, text in recording.clips)}\n"
                        f"  output:    {' | '.join(f'{s.start:.1f} {s.text}' for s in segments)}"
                    )
            error = score([recording.text for recording in recordings], outputs).wer
            print(f"  {way}: WER {error:.2%} ({time.perf_counter() - start:.0f} s)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
