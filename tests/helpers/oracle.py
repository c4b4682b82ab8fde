"""A simulated model with a given word error rate, to test how recordings are split and joined.

In the simulated video, one pixel of each frame encodes the number of the frame, and a patch moves
while somebody signs. So the oracle knows which frames it gets, and returns what a model with that
error rate would return. Errors are random in each window, with equal numbers of substitutions,
insertions and deletions. A word at the edge of a window is replaced by a random word, or is missing
if less than a fifth of it is in the window.
"""

import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from signvit_jax.config.schema import DataConfig, InferenceConfig
from signvit_jax.inference.frame_sources import RecordedSource, TakenFrames
from signvit_jax.inference.joining import join_windows
from signvit_jax.inference.predictor import Hypothesis
from signvit_jax.inference.resting import CtcSign
from signvit_jax.inference.streaming import LiveCaptions, Reading
from signvit_jax.inference.windowing import (
    VideoInput,
    VideoWindow,
    sample_window,
    to_segment,
    to_video_time,
)
from signvit_jax.text.words import Word, words_text
from signvit_jax.text.writing_systems import has_unspaced

RATE = 12.5
DATA = DataConfig(num_frames=48, image_size=16, sampling="rate", frame_rate=8.33)
CHINESE = (
    "今天气是很好的我们去公园吃饭看书你他她妈爸老师学生买红大"
    "小两个苹果房子杯明昨晚早上下来回家车路水火山木人"
)


class Signed(NamedTuple):
    """A word and when it is signed."""

    word: str
    start: float  # seconds
    end: float


def continuous(rng: random.Random, vocabulary: Sequence[str], seconds: float) -> list[Signed]:
    """Return signing without pauses, word after word."""
    return sentences(rng, vocabulary, seconds, lambda: 0.0)


def sentences(rng: random.Random, vocabulary: Sequence[str], seconds: float, pause) -> list[Signed]:
    """Return sentences of three to seven words, with `pause()` seconds between two sentences."""
    now = 0.4
    script = []
    while now < seconds - 7.0:
        for _ in range(rng.randint(3, 7)):
            length = rng.uniform(0.25, 0.8)
            script.append(Signed(rng.choice(vocabulary), now, now + length))
            now += length
        now += pause()
    return script


def video(script: Sequence[Signed], seconds: float) -> np.ndarray:
    """Return the frames of a signed script, uint8 (t, 16, 16, 3), at RATE frames per second."""
    count = round(seconds * RATE)
    frames = np.full((count, 16, 16, 3), 90, np.uint8)
    frames[:, 0, 0, 0], frames[:, 0, 0, 1] = np.arange(count) // 128, 2 * (np.arange(count) % 128)
    for signed in script:
        for t in range(round(signed.start * RATE), min(round(signed.end * RATE), count)):
            column = 3 * t % 12
            frames[t, 4:8, 1 + column : 4 + column] = 220
    return frames


def seconds_of(frame: np.ndarray) -> float:
    """Return the time of a frame in the video, in seconds."""
    return (int(frame[0, 0, 0]) * 128 + int(frame[0, 0, 1]) // 2) / RATE


@dataclasses.dataclass
class Oracle:
    """A model that knows the script, and makes errors with a given probability."""

    script: Sequence[Signed]
    vocabulary: Sequence[str]
    error: float  # probability of an error in a word, 0 to 1
    rng: random.Random
    num_words: int = 0  # words that were recognized so far
    num_errors: int = 0  # errors in them, without those at the edges of windows
    # Largest error of the times of words, in seconds; None: no times, like the package's decoders.
    times_off: float | None = None

    def detect_signs(self, windows: Sequence[VideoWindow]) -> list[tuple[CtcSign, ...]]:
        """Return the signs that CTC detects: those of which the frames show at least half."""
        return [
            self._detected([seconds_of(frame) for frame in window.frames]) for window in windows
        ]

    def recognize(self, frames: Sequence[np.ndarray]) -> tuple[Hypothesis, tuple[float, ...]]:
        """Return the hypothesis for some frames, and the times of its words in seconds."""
        start = seconds_of(frames[0])
        end = seconds_of(frames[-1]) + 1 / DATA.frame_rate
        groups = [self._with_errors(word, at) for word, at in self._seen(start, end)]
        words = [word for group in groups for word in group]
        texts = [word for word, _ in words]
        output = tuple(Word(text, 0.5, not has_unspaced(text)) for text in texts)
        times = sorted(
            min(max(at + self.rng.uniform(-1, 1) * (self.times_off or 0.0), start), end)
            for _, at in words
        )
        tokens = tuple(range(len(output)))
        return Hypothesis(words_text(output), tokens, -1.0, 0.5, output), tuple(times)

    def read(self, images: Sequence[np.ndarray], rate: float, *, has_times: bool = True) -> Reading:
        window = sample_window(images, rate, DATA)
        hypothesis, _ = self.recognize(window.frames)
        signs = tuple(to_video_time(window, self.detect_signs([window])[0])) if has_times else None
        return Reading(hypothesis, hypothesis.text, signs)

    def _seen(self, start: float, end: float) -> Iterator[tuple[str, float]]:
        """Yield (word, middle time) of the signs between two times, random words at the edges."""
        for signed in self.script:
            visible = min(signed.end, end) - max(signed.start, start)
            # The frames that `sample_window` takes may miss the edge of a sign by one frame.
            if visible >= signed.end - signed.start - 1 / DATA.frame_rate:
                yield signed.word, (signed.start + signed.end) / 2
            elif visible >= 0.2 * (signed.end - signed.start):
                yield (
                    self.rng.choice(self.vocabulary),
                    (max(signed.start, start) + min(signed.end, end)) / 2,
                )

    def _with_errors(self, word: str, at: float) -> list[tuple[str, float]]:
        draw = self.rng.random()
        other = self.rng.choice(self.vocabulary)
        self.num_words += 1
        self.num_errors += draw < self.error
        if draw < self.error / 3:
            return [(other, at)]
        if draw < 2 * self.error / 3:
            return [(other, at), (word, at)]
        return [] if draw < self.error else [(word, at)]

    def _detected(self, times: Sequence[float]) -> tuple[CtcSign, ...]:
        found = []
        for signed in self.script:
            inside = [n for n, at in enumerate(times) if signed.start <= at < signed.end]
            if inside and len(inside) >= 0.5 * (signed.end - signed.start) * DATA.frame_rate:
                found.append(CtcSign(inside[0], inside[-1] + 1, 0.99, 9.0))
        return tuple(found)


DEFAULTS = InferenceConfig()


def captioned(
    script: Sequence[Signed],
    seconds: float,
    oracle: Oracle,
    inference: InferenceConfig = DEFAULTS,
    *,
    has_times: bool = True,
) -> str:
    """Return the text of the recording, as `Translator.translate` does."""
    recording = VideoInput(
        video(script, seconds),
        RATE,
        DATA,
        inference,
        detect_signs=oracle.detect_signs if has_times else None,
    ).peek()
    segments = []
    for window in recording.windows:
        hypothesis, times = oracle.recognize(window.frames)
        segments.append(
            dataclasses.replace(
                to_segment(window, hypothesis), times=times if oracle.times_off is not None else ()
            )
        )
    return words_text(
        word for segment in join_windows(segments, 2 * 5.76) for word in segment.words
    )


class LateSource(RecordedSource):
    """A recording whose frames come late: `late()` seconds after the requested time."""

    def __init__(self, frames: Iterator[np.ndarray], late: Callable[[], float]):
        super().__init__(frames, RATE, lambda image: image)
        self._late = late

    def take(self, until: float) -> TakenFrames:
        return super().take(until + self._late())


def live_text(
    script: Sequence[Signed],
    seconds: float,
    oracle: Oracle,
    *,
    has_times: bool = True,
    late: Callable[[], float] = lambda: 0.0,
) -> str:
    """Return the final text of live captions whose readings are `late()` seconds late."""

    def read(images: Sequence[np.ndarray], rate: float) -> Reading:
        return oracle.read(images, rate, has_times=has_times)

    captions = LiveCaptions(read, 5.76, InferenceConfig().window_overlap, 0.5, 3)
    updates = list(captions.follow(LateSource(iter(video(script, seconds)), late)))
    assert updates[-1].dropped == 0
    return words_text(
        word for update in updates for segment in update.final for word in segment.words
    )


def word_error(scripts: Sequence[Sequence[Signed]], texts: Sequence[str]) -> float:
    """Return the word error rate over all recordings; for Chinese texts, that of characters."""
    wrong = total = 0
    for script, text in zip(scripts, texts, strict=True):
        reference = [signed.word for signed in script]
        words = list(text) if any(map(has_unspaced, reference)) else text.split()
        wrong += _edit_distance(reference, words)
        total += len(reference)
    return wrong / total


def _edit_distance(words: Sequence[str], other_words: Sequence[str]) -> int:
    """Return the number of substitutions, insertions and deletions between two texts."""
    previous = list(range(len(other_words) + 1))
    for number, word in enumerate(words, 1):
        row = [number]
        for column, other_word in enumerate(other_words, 1):
            substituted = previous[column - 1] + (word != other_word)
            row.append(min(previous[column] + 1, row[column - 1] + 1, substituted))
        previous = row
    return previous[-1]


def simulated(
    recordings: int,
    seconds: float,
    error: float,
    vocabulary_size: int | None,
    *,
    pauses: bool,
    times_off: float | None = None,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the word error rates of the joined texts of recordings and of their windows.

    The vocabulary has `vocabulary_size` words; None means Chinese characters.
    """
    if vocabulary_size is None:
        vocabulary = list(dict.fromkeys(CHINESE))
    else:
        vocabulary = [f"w{number}" for number in range(vocabulary_size)]
    scripts, texts, oracles = [], [], []
    for number in range(recordings):
        rng = random.Random(f"{seed} {number}")
        script = (
            sentences(rng, vocabulary, seconds, lambda rng=rng: rng.uniform(0.0, 3.0))
            if pauses
            else continuous(rng, vocabulary, seconds)
        )
        scripts.append(script)
        oracles.append(Oracle(script, vocabulary, error, rng, times_off=times_off))
        texts.append(captioned(script, seconds, oracles[-1]))
    num_errors = sum(oracle.num_errors for oracle in oracles)
    within = num_errors / sum(oracle.num_words for oracle in oracles)
    return word_error(scripts, texts), within


def live_error(
    recordings: int,
    seconds: float,
    pause: float,
    *,
    has_times: bool,
    seed: int = 0,
    most_late: float = 0.0,
) -> float:
    """Return the word error rate of live captions by a model without errors.

    There are `pause` seconds between sentences. Each reading is up to `most_late` seconds late.
    """
    rng = random.Random(seed)
    vocabulary = [f"w{number}" for number in range(200)]
    scripts = [
        sentences(random.Random(f"{seed} {number}"), vocabulary, seconds, lambda: pause)
        for number in range(recordings)
    ]
    texts = [
        live_text(
            script,
            seconds,
            Oracle(script, vocabulary, 0.0, random.Random(number)),
            has_times=has_times,
            late=lambda: rng.uniform(0.0, most_late),
        )
        for number, script in enumerate(scripts)
    ]
    return word_error(scripts, texts)
