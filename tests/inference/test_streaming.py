"""Live captions: when text becomes final, and which frames are kept or dropped.

The model is replaced by a function; test_translator.py has tests with a real model.
"""

import itertools
import queue
import sys
import threading
import time
import types

import numpy as np
import pytest

from signvit_jax.inference import frame_sources, streaming
from signvit_jax.inference.frame_sources import (
    Frame,
    LiveSource,
    PushedFrames,
    RecordedSource,
    SourceError,
    TakenFrames,
    open_source,
)
from signvit_jax.inference.predictor import Hypothesis
from signvit_jax.inference.resting import Sign
from signvit_jax.inference.streaming import LiveCaptions, LiveSession, Reading
from signvit_jax.text.words import TimedWord, Word

RATE = 10.0


def frame(value: int) -> np.ndarray:
    return np.full((4, 4, 3), value, np.uint8)


def unchanged(image: np.ndarray) -> np.ndarray:
    return image


def hypothesis(text: str) -> Hypothesis:
    words = tuple(Word(word, 0.5) for word in text.split())
    return Hypothesis(text, tuple(range(len(words))), -1.0, 0.5, words)


def read_values(images, rate):
    """Return the text of images: a word for each run of equal values, without those of 0."""
    values = [int(image[0, 0, 0]) for image in images]
    signs = [value for value, _ in itertools.groupby(values) if value != 0]
    text = " ".join(f"s{sign}" for sign in signs)
    return Reading(hypothesis(text), text.upper())


def captions(read=read_values, window=6.0, overlap=0.5, every=0.5, votes=3) -> LiveCaptions:
    return LiveCaptions(read, window, overlap, every, votes)


def follow(values, **options):
    """Return all updates for a recording whose images have these values, ten per second."""
    return list(captions(**options).follow(RecordedSource(map(frame, values), RATE, unchanged)))


def final_segments(updates) -> list:
    return [segment for update in updates for segment in update.final]


def final(updates) -> list[tuple[float, float, str]]:
    """Return (start, end, text) of each final segment."""
    return [(segment.start, segment.end, segment.text) for segment in final_segments(updates)]


def test_a_hypothesis_comes_every_half_second():
    updates = follow([1] * 30)
    assert [update.seconds for update in updates] == pytest.approx(
        [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.0]
    )
    assert all(update.text == "s1" and update.partial == "S1" for update in updates)
    assert all(0 <= update.latency < 100 and update.dropped == 0 for update in updates)


def test_text_is_final_once_a_sentence_is_over():
    first, second = final(follow([0] * 10 + [1] * 10 + [2] * 10 + [0] * 60 + [3] * 20 + [0] * 40))
    start, end, text = first
    assert text == "s1 s2" and start <= 1.0 and end >= 3.0
    next_start, next_end, text = second
    assert text == "s3" and end <= next_start <= 9.0 and next_end >= 10.0


def test_nothing_is_final_if_nobody_signs():
    updates = follow([0] * 300)
    assert final(updates) == [] and all(update.text == "" for update in updates)


def test_signing_without_pauses_becomes_final_by_window():
    # There is a new sign every 0.8 seconds, so that three hypotheses never agree.
    signs = list(range(1, 41))
    found = final(follow([value for value in signs for _ in range(8)]))
    assert " ".join(text for *_, text in found).split() == [f"s{value}" for value in signs]
    assert all(end - start <= 6.0 + 1e-6 for start, end, _ in found)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(found))
    assert len(found) > 5


def shown(count: int, first: int, *still: tuple[int, int], wall: int = 60) -> list[np.ndarray]:
    """Return frames of 16 x 16 pixels, in which a bar moves except in the ranges `still`.

    In `still` the bar is at the left edge. The corner pixel has the number of the frame.
    """
    images = []
    for t in range(first, first + count):
        image = np.full((16, 16, 3), wall, np.uint8)
        is_still = any(begin <= t < end for begin, end in still)
        left = 0 if is_still else 1 + 3 * t % 13
        image[4:10, left : left + 2] = 230
        image[0, 0] = t
        images.append(image)
    return images


def read_moves(images, rate) -> Reading:
    """Return a sign for every five frames in which the bar moves, and the times of the signs.

    Frames 0 to 4 of the video are the sign s0, frames 5 to 9 are s1, and so on.
    """
    last_positions = {}  # sign -> position of its last frame in `images`
    for position, image in enumerate(images):
        if image[4, 0, 0] != 230:  # the bar is not at the left edge
            last_positions[int(image[0, 0, 0]) // 5] = position
    found = hypothesis(" ".join(f"s{sign}" for sign in last_positions))
    ends = [position / rate for position in last_positions.values()]
    return Reading(found, "", tuple(Sign(end - 0.3, end) for end in ends))


def test_live_video_is_split_at_rests_if_ctc_gives_times():
    images = shown(160, 0, (30, 70), (110, 160))
    updates = list(captions(read_moves).follow(RecordedSource(images, RATE, unchanged)))
    found = final_segments(updates)
    assert [segment.text for segment in found] == [
        "s0 s1 s2 s3 s4 s5",
        "s14 s15 s16 s17 s18 s19 s20 s21",
    ]
    assert found[0].end <= 3.5 and 6.5 <= found[1].start <= 7.0
    # The first text is final soon after the hands have come to rest.
    assert next(update.seconds for update in updates if update.final) <= 4.5


def test_live_video_is_split_where_nothing_moves_if_ctc_gives_no_times():
    def read(images, rate):
        clean = [np.where(image > 150, 230, image) for image in images]
        return read_moves(clean, rate)._replace(signs=None)

    images = shown(160, 0, (0, 20), (50, 90), (120, 160))
    rng = np.random.default_rng(0)
    noisy = [
        np.clip(image + rng.integers(-1, 2, image.shape), 0, 255).astype(np.uint8)
        for image in images
    ]
    for number, image in enumerate(noisy):
        image[0, 0] = number  # the number must not be noisy
        if number % 5 == 0:  # as in compressed videos, key frames differ from their neighbors
            image[12:] -= 5
    live = LiveCaptions(read, 6.0, 0.5, 0.5, 3, by_motion=True)
    updates = list(live.follow(RecordedSource(noisy, RATE, unchanged)))
    assert [segment.text for segment in final_segments(updates)] == [
        "s4 s5 s6 s7 s8 s9",
        "s18 s19 s20 s21 s22 s23",
    ]
    # Texts are final soon after the hands have come to rest, and not before.
    assert [update.seconds for update in updates if update.final] == pytest.approx(
        [6.5, 13.5], abs=0.5
    )


def test_final_words_have_their_times_in_the_stream():
    def read_final(images, rate):
        """Return a word with a time, and one whose confidence is the number of images."""
        first, *_ = read_moves(images, rate).signs
        word = TimedWord("a", 0.5, start=first.start, end=first.end)
        return Hypothesis("a b", (1, 2), -1.0, 0.5, (word, Word("b", len(images))))

    images = shown(160, 0, (30, 70), (110, 160))
    live = LiveCaptions(read_moves, 6.0, 0.5, 0.5, 3, read_final=read_final)
    updates = list(live.follow(RecordedSource(images, RATE, unchanged)))
    found = final_segments(updates)
    assert [segment.text for segment in found] == ["a b", "a b"]
    for segment, signing_start in zip(found, (0.0, 7.0)):
        timed, untimed = segment.words
        assert timed.end == pytest.approx(signing_start, abs=0.45)
        assert timed.end - timed.start == pytest.approx(0.3)
        # The final text is read from all frames of the segment and no others.
        assert untimed.confidence == pytest.approx(RATE * (segment.end - segment.start), abs=1)


def test_text_is_final_soon_after_the_signer_stays_in_the_pose_of_a_sign():
    def read(images, rate):
        """Return the same signs, but CTC finds the last one until the end of the images."""
        found = read_moves(images, rate)
        *signs, last = found.signs or [Sign(0.0, 0.3)]
        return found._replace(signs=(*signs, last._replace(end=len(images) / rate)))

    images = shown(30, 0)
    images += shown(1, 30, (30, 31)) * 60
    updates = list(captions(read).follow(RecordedSource(images, RATE, unchanged)))
    first = next(update for update in updates if update.final)
    assert [segment.text for segment in first.final] == ["s0 s1 s2 s3 s4 s5"]
    assert first.seconds <= 3.0 + 2.0
    assert sum(len(update.final) for update in updates) == 1


def test_a_new_shot_makes_the_text_before_it_final():
    images = shown(52, 0, (20, 50)) + shown(30, 52, wall=180)
    new_shot = 5.2 - 1e-6  # seconds
    updates = list(captions(read_moves).follow(RecordedSource(images, RATE, unchanged)))
    found = final_segments(updates)
    assert " ".join(segment.text for segment in found).split()[:4] == ["s0", "s1", "s2", "s3"]
    assert any(segment.start >= new_shot for segment in found)
    assert not any(segment.start < new_shot < segment.end - 0.05 for segment in found)


def test_the_shown_text_is_that_of_the_majority():
    texts = iter(["a", "b", "a", "c", "d", "e"])
    updates = follow([1] * 27, read=lambda images, rate: Reading(hypothesis(next(texts)), ""))
    # Of three different texts, the newest is shown.
    assert [update.text for update in updates][:5] == ["a", "b", "a", "c", "d"]
    texts = iter(["a", "a", "b", "b", "a", "b", "b"])
    updates = follow([1] * 27, read=lambda images, rate: Reading(hypothesis(next(texts)), ""))
    assert [update.text for update in updates][:6] == ["a", "a", "a", "b", "b", "b"]


def test_no_more_frames_are_read_than_the_window_has():
    lengths = []

    def read(images, rate):
        lengths.append(len(images))
        assert rate == pytest.approx(RATE, rel=0.2)
        return Reading(hypothesis(""), "")

    follow([0] * 2000, read=read)
    assert max(lengths) <= 61 and min(lengths[20:]) >= 25


def test_a_fast_source_is_limited_to_the_rate_of_training():
    taken, now, ended = RecordedSource(map(frame, range(100)), 100.0, unchanged).take(2.0)
    assert ended and now == 1.0
    assert len(taken) == pytest.approx(25, abs=2)
    assert np.diff([image.seconds for image in taken]).max() <= 0.05


class Camera:
    """A source of live images, which arrive when the test calls `show`; None ends it."""

    def __init__(self):
        self.images = queue.SimpleQueue()

    def show(self, *images):
        for image in images:
            self.images.put(image)

    def __iter__(self):
        while (image := self.images.get()) is not None:
            yield image


def live(frames, seconds=6.0) -> LiveSource:
    return open_source(frames, None, unchanged, 8, seconds)


class Clock:
    """A clock that the test sets."""

    def __init__(self, now: float = 100.0):
        self.now = now

    def monotonic(self) -> float:
        return self.now


def use_clock(monkeypatch, clock: Clock) -> Clock:
    """Let sources and captions read this clock."""
    for module in (frame_sources, streaming):
        monkeypatch.setattr(module, "time", clock)
    return clock


def test_the_oldest_waiting_frames_are_dropped_and_counted(monkeypatch):
    clock = use_clock(monkeypatch, Clock())
    may_begin = threading.Event()

    def images():
        assert may_begin.wait(100)
        for value in range(60):
            clock.now += 0.041  # just below 25 frames per second, so that no frame is thinned out
            yield frame(value)

    source = live(images(), seconds=0.4)
    assert source.take(0.0) == ([], 0.0, False)
    may_begin.set()
    source._thread.join()
    taken, _, ended = source.take(100.0)
    assert ended and len(taken) == 10
    assert [int(live_frame.image[0, 0, 0]) for live_frame in taken] == list(range(50, 60))
    assert source.dropped == 50


def test_slow_reading_gives_fewer_hypotheses_not_later_ones(monkeypatch):
    clock = use_clock(monkeypatch, Clock(0.0))
    late = []

    class Source:
        dropped = 0

        def take(self, until):
            late.append(clock.now - until)
            clock.now = max(clock.now, until)
            frames = [Frame(clock.now, frame(1), clock.now)]
            return TakenFrames(frames, clock.now, clock.now > 10)

        def close(self):
            pass

    def read(images, rate):
        clock.now += 0.3
        return Reading(hypothesis("a"), "")

    updates = list(captions(read, window=1.0, every=0.1).follow(Source()))
    # An update takes 0.3 seconds. Without times from CTC, an update that makes text final takes
    # 1.5: text is read again after each of the three votes, and once more after the first.
    assert 15 <= len(updates) <= 36  # a fast machine would give 100
    assert max(late) < 1.5 + 1e-9  # the delay does not grow with every update
    assert all(0.3 - 1e-9 <= update.latency <= 1.5 + 1e-9 for update in updates)


def test_updates_wait_for_frames_of_the_camera_and_end_with_it():
    camera = Camera()
    updates = captions(every=0.05).follow(live(camera))
    camera.show(frame(1), frame(1))
    first = next(updates)
    assert first.text == "s1"
    camera.show(frame(2), None)
    rest = list(updates)
    assert rest and rest[-1].final


def test_an_error_of_the_source_is_raised_to_the_reader():
    def images():
        yield frame(1)
        raise OSError("unplugged")

    with pytest.raises(OSError, match="unplugged"):
        list(captions(every=0.05).follow(live(images())))


def test_closing_the_captions_ends_the_thread():
    released = threading.Event()

    def images():
        try:
            while True:
                time.sleep(0.02)
                yield frame(1)
        finally:
            released.set()

    source = live(images())
    updates = captions(every=0.05).follow(source)
    next(updates)
    updates.close()
    source._thread.join(100)
    assert not source._thread.is_alive()


def fake_cv2(opens: bool, images: int, ends=lambda: True):
    """Return an OpenCV whose camera gives `images` images, waits for `ends()`, and then fails."""

    class VideoCapture:
        def __init__(self, index):
            self.remaining, self.index = images, index
            captured.append(self)
            self.released = False

        def isOpened(self):
            return opens

        def read(self):
            time.sleep(0.04)
            self.remaining -= 1
            while self.remaining < 0 and not ends():
                time.sleep(0.01)
            bgr = np.full((4, 4, 3), (10, 20, 30), np.uint8)
            return self.remaining >= 0, bgr

        def release(self):
            self.released = True

    captured = []
    return types.SimpleNamespace(VideoCapture=VideoCapture, captured=captured)


def test_a_camera_is_read_as_rgb_and_released(monkeypatch):
    seen = []
    cv2 = fake_cv2(True, 10, ends=lambda: seen)
    monkeypatch.setitem(sys.modules, "cv2", cv2)

    def read(images, rate):
        seen.extend(images)
        return Reading(hypothesis(""), "")

    with pytest.raises(SourceError, match="camera 2 gives no more frames"):
        list(captions(read, every=0.1).follow(open_source(2, None, unchanged, 8, 6.0)))
    assert cv2.captured[0].index == 2 and cv2.captured[0].released
    assert (seen[0][0, 0] == (30, 20, 10)).all()


def test_a_camera_that_cannot_be_opened_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", fake_cv2(False, 0))
    with pytest.raises(SourceError, match="camera 7 cannot be opened"):
        open_source(7, None, unchanged, 8, 6.0)


def test_without_opencv_and_devices_the_error_shows_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setattr(frame_sources, "can_read_cameras", lambda: False)
    with pytest.raises(SourceError, match=r"pip install 'opencv-python-headless>="):
        open_source(0, None, unchanged, 8, 6.0)


@pytest.mark.parametrize("camera", [3, "/dev/video3"])
def test_without_opencv_a_camera_is_read_by_pyav(monkeypatch, camera):
    opened = []

    def open_camera(name):
        opened.append(name)
        return lambda stop: map(frame, range(10, 20))

    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setattr(frame_sources, "can_read_cameras", lambda: True)
    monkeypatch.setattr(frame_sources, "open_camera", open_camera)
    source = open_source(camera, None, unchanged, 8, 6.0)
    assert opened == [camera] and len(source.take(10.0).frames) > 0


def test_an_impossible_rate_is_refused():
    with pytest.raises(SourceError, match=r"fps is -1"):
        open_source([], -1, unchanged, 8, 6.0)


def session(read=read_values, seconds=6.0, **options) -> LiveSession:
    return LiveSession(captions(read, **options), PushedFrames(unchanged, seconds))


SENTENCES = [0] * 10 + [1] * 10 + [2] * 10 + [0] * 60 + [3] * 20 + [0] * 40


def push_all(live, values, begin=0.0) -> list:
    """Push a frame for each value, ten per second, and read updates after each; return them."""
    updates = []
    for number, value in enumerate(values):
        assert live.push(frame(value), begin + number / RATE)
        updates += live.updates()
    return updates


@pytest.mark.parametrize("begin", [0.0, 5000.0])
def test_a_session_gives_the_text_of_the_stream(begin):
    with session() as live:
        updates = push_all(live, SENTENCES, begin)
    updates += live.updates()
    expected = final(follow(SENTENCES))
    found = final(updates)
    assert [text for *_, text in found] == [text for *_, text in expected]
    # For an update, a session reads all frames up to the one that makes the update due. A recording
    # reads only the frames before that one.
    assert [start - begin for start, *_ in found] == pytest.approx(
        [start for start, *_ in expected], abs=0.5
    )
    assert list(live.updates()) == []


def test_updates_come_when_they_are_due_and_not_before():
    live = session()
    assert list(live.updates()) == []
    for number in range(5):
        live.push(frame(1), number / RATE)
    assert list(live.updates()) == []
    live.push(frame(1), 0.5)
    (update,) = live.updates()
    assert update.seconds == 0.5 and update.text == "s1" and update.final == ()
    assert list(live.updates()) == []


def test_the_end_of_a_session_makes_the_rest_final_unless_it_is_an_exception():
    with session() as live:
        push_all(live, [1] * 12)
    (update,) = live.updates()
    assert [segment.text for segment in update.final] == ["s1"]
    assert not live.push(frame(1), 10.0)
    with pytest.raises(OSError, match="unplugged"), session() as live:
        push_all(live, [1] * 12)
        raise OSError("unplugged")
    assert list(live.updates()) == [] and live.has_ended


def test_a_thread_waits_for_updates_until_the_session_ends():
    found = []
    live = session()
    reader = threading.Thread(target=lambda: found.extend(live.updates(wait=True)))
    reader.start()
    for number in range(12):
        live.push(frame(1), number / RATE)
    live.end()
    reader.join(100)
    assert not reader.is_alive()
    assert [segment.text for update in found for segment in update.final] == ["s1"]


@pytest.mark.parametrize("while_reading", [False, True])
def test_cancelling_ends_a_thread_that_waits_or_reads(while_reading):
    found = []
    is_reading, may_continue = threading.Event(), threading.Event()

    def read(images, rate):
        is_reading.set()
        assert may_continue.wait(100)
        return read_values(images, rate)

    live = session(read)
    reader = threading.Thread(target=lambda: found.extend(live.updates(wait=True)))
    reader.start()
    if while_reading:
        live.push(frame(1), 0.0)
        live.push(frame(1), 1.0)
        assert is_reading.wait(100)
    live.cancel()
    may_continue.set()
    reader.join(100)
    assert not reader.is_alive() and found == []


def test_frames_that_nobody_reads_are_dropped_and_counted():
    live = session(seconds=0.4)  # ten frames
    for number in range(30):
        live.push(frame(1), number / RATE)
    (update,) = live.updates()
    assert update.dropped == 20


@pytest.mark.parametrize("seconds", [0.9, -1.0, float("nan"), float("inf"), "1", True, 1e9])
def test_an_impossible_time_of_a_frame_is_refused(seconds):
    live = session()
    live.push(frame(1), 1.0)
    with pytest.raises(SourceError, match=r"allowed: seconds from 1"):
        live.push(frame(1), seconds)
    live.push(frame(1), 1.0)


def test_frames_without_times_are_timed_by_the_clock(monkeypatch):
    clock = use_clock(monkeypatch, Clock())
    live = session()
    for _ in range(6):
        live.push(frame(1))
        clock.now += 0.1
    (update,) = live.updates()
    assert update.seconds == pytest.approx(0.6)
