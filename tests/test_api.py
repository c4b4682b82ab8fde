"""load_translator: every kind of clip gives the same text, alone or in a list, from one thread or many."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tiny_run

from signvit_jax.api import ClipError, load_translator
from signvit_jax.config import ConfigError
from signvit_jax.data.video import VideoDecodeError, read_video


@pytest.fixture(scope="module")
def translator(trained):
    with tiny_run.light_jax(trained.cache):
        yield load_translator(trained.workdir)


def test_path_bytes_and_frames_of_a_clip_give_the_same_translation(translator, trained):
    path = trained.video(1)
    video = read_video(path)
    by_path = translator.translate(path)
    assert by_path.text and 0 < by_path.confidence <= 1 and by_path.decoder == "greedy"
    assert by_path.seconds == pytest.approx(len(video.frames) / 10)
    assert translator.translate(str(path)) == by_path
    assert translator.translate(path.read_bytes()) == by_path
    assert translator.translate(video.frames, fps=video.fps) == by_path


@pytest.mark.parametrize("decode", ["greedy", "beam", "ctc"])
def test_a_list_of_mixed_clips_gives_what_each_gives_alone(translator, trained, decode):
    # More clips than inference.batch_size = 4, so that the last part of the batch is filled up.
    clips = [trained.video(0), read_video(trained.video(1)).frames, trained.video(2).read_bytes(), str(trained.video(3)), trained.video(4)]
    together = translator.translate(clips, decode=decode)
    alone = [translator.translate(clip, decode=decode) for clip in clips]
    assert [(found.text, found.tokens) for found in together] == [(found.text, found.tokens) for found in alone]
    assert [found.score for found in together] == pytest.approx([found.score for found in alone], abs=1e-4)
    assert len({found.text for found in together}) > 1 or decode != "greedy"  # else the order would not be tested


def test_an_empty_list_gives_an_empty_list(translator):
    assert translator.translate([]) == []


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((8, 32, 32, 3), np.float32),
        np.zeros((8, 32, 32), np.uint8),
        np.zeros((8, 3, 32, 32), np.uint8),
        np.zeros((0, 32, 32, 3), np.uint8),
        np.zeros((8, 0, 32, 3), np.uint8),
    ],
    ids=["float", "grey", "channels first", "no frame", "no pixel"],
)
def test_frames_that_are_no_clip_are_refused_with_shape_and_dtype(translator, frames):
    with pytest.raises(ClipError) as refused:
        translator.translate(frames)
    assert str(frames.shape) in str(refused.value) and str(frames.dtype) in str(refused.value) and "uint8" in str(refused.value)


@pytest.mark.parametrize("clip", [b"no video", b"", "missing.mp4"])
def test_what_cannot_be_read_is_a_decode_error(translator, clip):
    with pytest.raises(VideoDecodeError):
        translator.translate(clip)


@pytest.mark.parametrize("bad", [{"decode": "bream"}, {"beam_sise": 4}, {"temperature": -1.0}])
def test_wrong_decoding_values_are_refused_with_their_name(translator, trained, bad):
    with pytest.raises((ConfigError, ValueError, TypeError)) as refused:
        translator.translate(trained.video(0), **bad)
    assert str(next(iter(bad.values()))) in str(refused.value) or next(iter(bad)) in str(refused.value)


def test_threads_get_the_answers_of_their_own_clips(translator, trained):
    clips = [trained.video(number) for number in range(6)] * 2
    alone = [translator.translate(clip) for clip in clips]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(translator.translate, clips)) == alone


def test_warm_up_leaves_nothing_to_compile(trained, caplog):
    import jax

    with tiny_run.light_jax(trained.cache):
        translator = load_translator(trained.workdir)
        translator.warm_up()
        jax.config.update("jax_log_compiles", True)
        try:
            translator.translate(trained.video(5))
        finally:
            jax.config.update("jax_log_compiles", False)
    assert "Finished XLA compilation" not in caplog.text
