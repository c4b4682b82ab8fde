"""Tests of frame rates: a variable rate keeps all movement, a constant one stays unchanged."""

import itertools

import av
import numpy as np
import pytest

from signvit_jax.config.schema import DataConfig, InferenceConfig
from signvit_jax.inference.windowing import VideoInput
from signvit_jax.media.video import Sampling, open_video, read_jpegs
from tests.helpers.clip_makers import encode, shade_numbers, shades
from tests.helpers.video_frames import read_video

VARIABLE = {  # name -> times of the frames in milliseconds
    "still_then_signing": [0, *range(10_000, 12_000, 40)],
    "one_frame_per_second_then_a_burst": [*range(0, 60_000, 1000), *range(60_000, 60_800, 40)],
    "signing_then_still": [*range(0, 2000, 40), 9000, 16_000],
    "still_between": [*range(0, 1000, 40), 6000, *range(11_000, 12_000, 40)],
    "first_frames_far_apart": [0, 900, 1800, *range(2700, 6000, 50)],
    "four_signed_frames": [0, 3000, 3040, 3080, 3120],
}


def jittered(fps: float, count: int, jitter: float, dropped: float, seed: int = 0) -> list[int]:
    """Return frame times of a phone in ms, each off by up to `jitter`.

    `dropped`: the share of the frames of the second half that are missing, 0 to 1.
    """
    rng = np.random.default_rng(seed)
    times = np.arange(count) * 1000 / fps + rng.uniform(-jitter, jitter, count)
    kept = (np.arange(count) < count // 2) | (rng.uniform(size=count) >= dropped)
    return sorted({int(time) for time in times[kept] - times[0]})


def shown_at(times: list[int], seconds: float) -> int:
    """Return the number of the frame on screen after `seconds`; `times` are in milliseconds."""
    return max((i for i, time in enumerate(times) if time <= seconds * 1000), default=0)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("case", VARIABLE)
def test_a_variable_rate_keeps_every_signed_frame_at_its_time(tmp_path, name, case):
    times = VARIABLE[case]
    clip = read_video(encode(tmp_path / name, shades(len(times)), pts=times), max_frame_rate=25.0)
    highest_rate = 1000 / min(late - early for early, late in itertools.pairwise(times))
    assert clip.fps == pytest.approx(min(highest_rate, 25.0), rel=0.02)
    numbers = shade_numbers(clip.frames)  # `shades` repeats its levels after 23
    for k, number in enumerate(numbers):
        near = {shown_at(times, (k + quarter) / clip.fps) % 23 for quarter in (0.0, 0.25, 0.5)}
        assert number in near, (k, k / clip.fps)
    signed = {i for i, (early, late) in enumerate(itertools.pairwise(times)) if late - early <= 50}
    assert len(numbers) >= times[-1] / 1000 * clip.fps  # the clip is as long as the video
    num_shown = 1 + sum(a != b for a, b in itertools.pairwise(numbers))
    assert num_shown >= len(signed)


def test_jitter_of_phones_loses_at_most_a_tenth_of_the_frames(tmp_path):
    times = jittered(15, 120, jitter=12, dropped=0.4)
    clip = read_video(
        encode(tmp_path / "a.webm", shades(len(times)), pts=times, codec="libvpx"),
        max_frame_rate=25.0,
    )
    assert 14.5 <= clip.fps <= 25
    assert len(clip.frames) / clip.fps == pytest.approx(times[-1] / 1000, abs=0.2)
    shown = [shown_at(times, (k + 0.25) / clip.fps) for k in range(len(clip.frames))]
    assert len(set(shown)) >= 0.9 * len(times)


@pytest.mark.parametrize("fps", [5, 10, 12, 15, 24])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {"options": {"bf": "3"}}),
        ("a.mp4", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
        ("a.mkv", {"options": {"bf": "2"}}),
        (
            "a.webm",
            {
                "codec": "libvpx",
                "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "200k"},
            },
        ),
        ("a.avi", {"codec": "mpeg4"}),
        ("a.gif", {"codec": "gif", "pix_fmt": "gray"}),
    ],
)
def test_a_constant_rate_stays_unchanged(tmp_path, name, options, fps):
    path = encode(tmp_path / name, shades(40), fps=fps, **options)
    with av.open(str(path)) as container:
        average = float(container.streams.video[0].average_rate)
    clip = read_jpegs(path, Sampling(max_frame_rate=25.0))
    assert clip.fps == average
    assert clip.notes == ()
    assert clip.frames == read_jpegs(path, Sampling(frame_rate=average)).frames


@pytest.mark.parametrize("start", [0.0, 10.0, 10.4])
def test_a_clip_has_the_rate_of_its_own_densest_stretch(tmp_path, start):
    times = VARIABLE["still_then_signing"]
    path = encode(tmp_path / "a.mkv", shades(len(times)), pts=times, options={"g": "5"})
    clip = read_video(path, max_frame_rate=25.0, start=start, end=11.8)
    assert clip.fps == 25.0
    assert len(clip.frames) == pytest.approx((11.8 - start) * 25, abs=1)
    still = read_video(path, max_frame_rate=25.0, start=2.0, end=4.0)
    assert set(shade_numbers(still.frames)) == {0}


def test_translation_reads_the_frames_that_builders_store(tmp_path):
    times = VARIABLE["still_then_signing"]
    path = encode(tmp_path / "a.mp4", shades(len(times)), pts=times)
    stored = read_jpegs(path, Sampling(max_frame_rate=25.0))
    assert stored.notes == ("variable_rate",)
    with open_video(path, Sampling(max_frame_rate=25.0)) as video:
        assert video.fps == stored.fps
        assert [round(seconds * 25) for seconds, _ in video.frames] == list(
            range(len(stored.frames))
        )
    data = DataConfig(num_frames=1000, image_size=32, sampling="rate", frame_rate=25.0)
    spans = list(VideoInput(path, None, data, InferenceConfig(max_clip_seconds=30.0)).windows)
    assert [len(span.frames) for span in spans] == [len(stored.frames)]
    assert spans[0].end == pytest.approx(len(stored.frames) / 25)
