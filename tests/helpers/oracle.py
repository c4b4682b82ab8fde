"""A simulated model with a given word error, for the code that splits and joins recordings.

In the simulated video one pixel of each frame encodes the frame's number, and a patch moves while
somebody signs. So the oracle knows which frames it gets, and returns what a model with that word
error would. Errors are drawn for each window: substitutions, insertions and deletions in equal
shares. A word at the edge of the window is replaced by a random one, or is missing if less than a
fifth of it is left.
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
    """Signing without pauses, word by word."""
    return sentences(rng, vocabulary, seconds, lambda: 0.0)


def sentences(rng: random.Random, vocabulary: Sequence[str], seconds: float, pause) -> list[Signed]:
    """Sentences of three to seven words; `pause()` gives the seconds between two of them."""
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
    """The frames, uint8 (t, 16, 16, 3), at RATE per second."""
    count = round(seconds * RATE)
    frames = np.full((count, 16, 16, 3), 90, np.uint8)
    frames[:, 0, 0, 0], frames[:, 0, 0, 1] = np.arange(count) // 128, 2 * (np.arange(count) % 128)
    for signed in script:
        for t in range(round(signed.start * RATE), min(round(signed.end * RATE), count)):
            place = 3 * t % 12
            frames[t, 4:8, 1 + place : 4 + place] = 220
    return frames


def seconds_of(frame: np.ndarray) -> float:
    """The time of the frame in the video."""
    return (int(frame[0, 0, 0]) * 128 + int(frame[0, 0, 1]) // 2) / RATE


@dataclasses.dataclass
class Oracle:
    script: Sequence[Signed]
    vocabulary: Sequence[str]
    error: float  # probability of an error in a word, 0 to 1
    rng: random.Random
    drawn: int = 0  # number of words drawn so far
    wrong: int = 0  # number of errors in them, without those at the edges of windows
    # Seconds by which the words' times are off; None: no times, like the decoders of the package.
    times_off: float | None = None

    def detect_signs(self, windows: Sequence[VideoWindow]) -> list[tuple[CtcSign, ...]]:
        """The signs that CTC detects: those of which the frames show half or more."""
        return [
            self._detected([seconds_of(frame) for frame in window.frames]) for window in windows
        ]

    def recognize(self, frames: Sequence[np.ndarray]) -> tuple[Hypothesis, tuple[float, ...]]:
        """The hypothesis about some frames, and the times of its words."""
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
        """Yield (word, time of its middle) of the signs between two times, garbled at the edges."""
        for said in self.script:
            seen = min(said.end, end) - max(said.start, start)
            # The frames that `sample_window` takes may miss the edge of a sign by one frame.
            if seen >= said.end - said.start - 1 / DATA.frame_rate:
                yield said.word, (said.start + said.end) / 2
            elif seen >= 0.2 * (said.end - said.start):
                yield (
                    self.rng.choice(self.vocabulary),
                    (max(said.start, start) + min(said.end, end)) / 2,
                )

    def _with_errors(self, word: str, at: float) -> list[tuple[str, float]]:
        drawn = self.rng.random()
        other = self.rng.choice(self.vocabulary)
        self.drawn, self.wrong = self.drawn + 1, self.wrong + (drawn < self.error)
        if drawn < self.error / 3:
            return [(other, at)]
        if drawn < 2 * self.error / 3:
            return [(other, at), (word, at)]
        return [] if drawn < self.error else [(word, at)]

    def _detected(self, times: Sequence[float]) -> tuple[CtcSign, ...]:
        found = []
        for said in self.script:
            inside = [n for n, at in enumerate(times) if said.start <= at < said.end]
            if inside and len(inside) >= 0.5 * (said.end - said.start) * DATA.frame_rate:
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
    """The text of the recording, as `Translator.translate` returns it."""
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
    """A recording that is taken late: `late()` seconds after what the reader asks for."""

    def __init__(self, frames: Iterator[np.ndarray], late: Callable[[], float]):
        super().__init__(frames, RATE, lambda image: image)
        self._late = late

    def take(self, until: float) -> TakenFrames:
        return super().take(until + self._late())


def followed(
    script: Sequence[Signed],
    seconds: float,
    oracle: Oracle,
    *,
    has_times: bool = True,
    late: Callable[[], float] = lambda: 0.0,
) -> str:
    """The final text of the live captions, which are read `late()` seconds late."""

    def read(images: Sequence[np.ndarray], rate: float) -> Reading:
        return oracle.read(images, rate, has_times=has_times)

    captions = LiveCaptions(read, 5.76, InferenceConfig().window_overlap, 0.5, 3)
    updates = list(captions.follow(LateSource(iter(video(script, seconds)), late)))
    assert updates[-1].dropped == 0
    return words_text(
        word for update in updates for segment in update.final for word in segment.words
    )


def word_error(scripts: Sequence[Sequence[Signed]], texts: Sequence[str]) -> float:
    """Word error over all recordings; of Chinese text by character."""
    wrong = total = 0
    for script, text in zip(scripts, texts, strict=True):
        reference = [signed.word for signed in script]
        words = list(text) if any(map(has_unspaced, reference)) else text.split()
        wrong += _distance(reference, words)
        total += len(reference)
    return wrong / total


def _distance(one: Sequence[str], other: Sequence[str]) -> int:
    row = list(range(len(other) + 1))
    for number, word in enumerate(one, 1):
        diagonal = row[0]
        row[0] = number
        for place, other_word in enumerate(other, 1):
            diagonal, row[place] = (
                row[place],
                min(row[place] + 1, row[place - 1] + 1, diagonal + (word != other_word)),
            )
    return row[-1]


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
    """Word error of the joined text of recordings, and of their windows.

    The vocabulary has `vocabulary_size` words, or with None Chinese characters.
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
    within = sum(oracle.wrong for oracle in oracles) / sum(oracle.drawn for oracle in oracles)
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
    """Word error of live captions of a perfect model, with `pause` seconds between sentences.

    Each reading is up to `most_late` seconds late.
    """
    rng = random.Random(seed)
    vocabulary = [f"w{number}" for number in range(200)]
    scripts = [
        sentences(random.Random(f"{seed} {number}"), vocabulary, seconds, lambda: pause)
        for number in range(recordings)
    ]
    texts = [
        followed(
            script,
            seconds,
            Oracle(script, vocabulary, 0.0, random.Random(number)),
            has_times=has_times,
            late=lambda: rng.uniform(0.0, most_late),
        )
        for number, script in enumerate(scripts)
    ]
    return word_error(scripts, texts)
