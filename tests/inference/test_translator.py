"""The Python API: clips of every kind, lists, threads, recordings, streams and ensembles."""

import contextlib
import dataclasses
import io
import itertools
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import get_type_hints

import numpy as np
import pytest

from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import InferenceConfig, TokenizerConfig
from signvit_jax.inference import translator as translator_module
from signvit_jax.inference.frame_sources import SourceError
from signvit_jax.inference.translator import ClipError, InferenceOptions, load_translator
from signvit_jax.media.video import VideoDecodeError
from signvit_jax.text.tokenizer import Tokenizer, learn
from tests.helpers import tiny_run
from tests.helpers.compiled_programs import compiled_programs
from tests.helpers.video_frames import read_video


@pytest.fixture(scope="module")
def translator(trained):
    with tiny_run.light_jax(trained.cache):
        yield load_translator(trained.workdir)


def test_path_bytes_and_frames_have_the_same_translation(translator, trained):
    path = trained.video(1)
    video = read_video(path)
    by_path = translator.translate(path)
    assert by_path.text and 0 < by_path.confidence <= 1 and by_path.decoder == "greedy"
    assert by_path.seconds == pytest.approx(len(video.frames) / 10)
    assert translator.translate(str(path)) == by_path
    assert translator.translate(path.read_bytes()) == by_path
    assert translator.translate(video.frames, fps=video.fps) == by_path


@pytest.mark.parametrize("decode", ["greedy", "beam", "ctc"])
def test_clips_in_a_list_are_translated_like_single_clips(translator, trained, decode):
    # There are more clips than inference.batch_size = 4, so they need several batches.
    clips = [
        trained.video(0),
        read_video(trained.video(1)).frames,
        trained.video(2).read_bytes(),
        str(trained.video(3)),
        trained.video(4),
    ]
    together = translator.translate(clips, decode=decode)
    alone = [translator.translate(clip, decode=decode) for clip in clips]
    assert [(found.text, found.tokens) for found in together] == [
        (found.text, found.tokens) for found in alone
    ]
    assert [found.score for found in together] == pytest.approx(
        [found.score for found in alone], abs=1e-4
    )
    if decode == "greedy":  # the texts must differ, because equal texts have no order
        assert len({found.text for found in together}) > 1


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
    ids=["float", "gray", "channels first", "no frame", "no pixel"],
)
def test_invalid_frames_are_refused_with_shape_and_dtype(translator, frames):
    with pytest.raises(ClipError) as refused:
        translator.translate(frames)
    for part in (str(frames.shape), str(frames.dtype), "uint8"):
        assert part in str(refused.value)


@pytest.mark.parametrize("clip", [b"no video", b"", "missing.mp4"])
def test_a_video_that_cannot_be_read_is_a_decode_error(translator, clip):
    with pytest.raises(VideoDecodeError):
        translator.translate(clip)


@pytest.mark.parametrize(
    ("name", "value"), [("decode", "bream"), ("beam_sise", 4), ("temperature", -1.0)]
)
def test_wrong_decoding_options_are_refused_with_name_or_value(translator, trained, name, value):
    with pytest.raises((ConfigError, ValueError, TypeError)) as refused:
        translator.translate(trained.video(0), **{name: value})
    assert name in str(refused.value) or str(value) in str(refused.value)


def test_threads_get_the_translations_of_their_own_clips(translator, trained):
    clips = [trained.video(number) for number in range(6)] * 2
    alone = [translator.translate(clip) for clip in clips]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(translator.translate, clips)) == alone


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """A video of six seconds: two sentences, a rest after each, with the gray of the clips."""
    path = tmp_path_factory.mktemp("recording") / "long.mp4"
    rest = np.full((20, tiny_run.SIZE, tiny_run.SIZE, 3), 30, np.uint8)
    tiny_run.write_video(
        path,
        np.concatenate([tiny_run.frames_of(0, 0, 10), rest, tiny_run.frames_of(1, 3, 10), rest]),
    )
    return path


WINDOWS = {"max_clip_seconds": 2.0, "window_seconds": 1.0}


def test_a_clip_is_one_segment_with_the_words_of_its_text(translator, trained):
    found = translator.translate(trained.video(1))
    (segment,) = found.segments
    assert (segment.start, segment.end, segment.text) == (0.0, found.seconds, found.text)
    assert [word.text for word in found.words] == found.text.split()
    assert all(0 < word.confidence <= 1 for word in found.words)


def test_a_translation_has_the_n_best_list_of_beam_search(translator, trained):
    best = translator.translate(trained.video(1), decode="beam", n_best=1)
    best_two = translator.translate(trained.video(1), decode="beam", n_best=2)
    assert best.alternatives == ()
    assert (best_two.text, best_two.tokens) == (best.text, best.tokens)
    assert len(best_two.alternatives) == 1
    assert best_two.alternatives[0].score <= best_two.score


def test_a_text_below_the_minimum_confidence_is_removed(translator, trained):
    found = translator.translate(trained.video(1))
    without = translator.translate(trained.video(1), min_confidence=1.0)
    assert found.confidence < 1.0
    assert (without.text, without.tokens, without.words, without.segments) == ("", (), (), ())
    assert without.confidence == found.confidence
    assert translator.translate(trained.video(1), min_confidence=found.confidence) == found


@pytest.mark.parametrize("kind", ["path", "frames"])
def test_segments_of_a_recording_do_not_overlap(translator, recording, kind):
    clip, fps = (recording, None) if kind == "path" else (read_video(recording).frames, 10)
    found = translator.translate(clip, fps=fps, **WINDOWS)
    assert found.seconds == pytest.approx(6.0) and found.segments
    assert all(0 <= segment.start < segment.end <= found.seconds for segment in found.segments)
    assert all(before.end <= after.start for before, after in itertools.pairwise(found.segments))
    assert found.text == " ".join(segment.text for segment in found.segments)
    for signing in (0.5, 3.5):
        assert any(segment.start <= signing <= segment.end for segment in found.segments)
    # With the default options, the video is one clip with one segment.
    assert translator.translate(clip, fps=fps).segments != found.segments


def test_a_folder_of_recordings_opens_one_at_a_time(translator, recording, monkeypatch):
    from signvit_jax.inference import windowing

    num_open = peak = 0
    open_video = windowing.open_video

    @contextlib.contextmanager
    def counting_open_video(*arguments):
        nonlocal num_open, peak
        with open_video(*arguments) as video:
            num_open += 1
            peak = max(peak, num_open)
            try:
                yield video
            finally:
                num_open -= 1

    monkeypatch.setattr(windowing, "open_video", counting_open_video)
    translations = translator.translate_each([recording] * 9, **WINDOWS)
    found = [next(translations)]
    translator._readers.submit(lambda: None).result()
    # Each reader opens a file for a moment, to see whether it is a clip.
    assert num_open <= translator_module._READERS
    found += list(translations)
    assert peak <= translator_module._READERS + 1 and num_open == 0
    assert len(found) == 9 and all(translation == found[0] for translation in found)


def test_a_lower_frame_rate_than_in_training_gives_a_warning(translator, trained):
    frames = np.concatenate([read_video(trained.video(number)).frames for number in range(6)] * 3)
    assert not translator.translate(frames[:40], fps=10).warnings
    # Frames of more than six seconds are a recording by default.
    assert len(translator.translate(frames, fps=10).segments) != 1 or len(frames) <= 60
    as_clip = translator.translate(frames, fps=10, max_clip_seconds=100.0)
    assert len(as_clip.segments) == 1
    (warning,) = as_clip.warnings
    assert f"{len(frames) / 10:.1f} s" in warning and "up to 6.0 s" in warning


def test_there_is_no_text_without_motion_or_evidence(translator, trained):
    still = np.repeat(read_video(trained.video(1)).frames[:1], 20, axis=0)
    found = translator.translate(still, fps=10)
    assert (found.text, found.tokens, found.words, found.segments) == ("", (), (), ())
    assert translator.translate(still, fps=10, rest_evidence=0.0).text
    assert found.evidence is None  # the CTC head of this model has not learned its labels
    # The same model, with a low CTC loss in its record of the validation.
    with_ctc = load_translator(trained.workdir)
    with_ctc.model = dataclasses.replace(with_ctc.model, validation={"ctc": 0.1})
    video = trained.video(1)
    signed = with_ctc.translate(video, rest_evidence=1e-9)
    assert signed.evidence is not None
    above = signed.evidence + 0.01
    assert with_ctc.translate(video, rest_evidence=above).text == ""
    assert with_ctc.translate(video, rest_evidence=0.0).text == translator.translate(video).text
    # The evidence of validation clips was not measured, so the default limit is not used. No signed
    # clip of this model would reach it.
    assert signed.evidence < InferenceConfig.rest_evidence
    assert with_ctc.translate(video).text
    # As much evidence as validation clips have is enough, even if the config requires more.
    validation = {"ctc": 0.1, "ctc_evidence": signed.evidence}
    with_ctc.model = dataclasses.replace(with_ctc.model, validation=validation)
    assert with_ctc.translate(video, rest_evidence=above).text


def test_unreadable_files_in_a_list_give_errors_at_their_positions(translator, trained, recording):
    clips = [trained.video(0), b"no video", recording, "missing.mp4", trained.video(1)]
    results = list(translator.translate_each(clips, **WINDOWS))
    is_error = [isinstance(result, VideoDecodeError) for result in results]
    assert is_error == [False, True, False, True, False]
    first, last = translator.translate([trained.video(0), trained.video(1)])
    assert (results[0].text, results[4].text) == (first.text, last.text)
    assert len(results[2].segments) > 0


def test_final_text_of_a_stream_is_in_order(translator, trained):
    video = read_video(trained.video(1))
    frames = itertools.chain.from_iterable([video.frames] * 5)
    updates = list(translator.stream(frames, fps=10, window_seconds=1.0))
    assert [update.seconds for update in updates][:3] == [0.5, 1.0, 1.5]
    segments = [segment for update in updates for segment in update.final]
    assert len(segments) > 0
    assert all(before.end <= after.start for before, after in itertools.pairwise(segments))
    assert all(update.dropped == 0 for update in updates)


def test_a_streamed_file_is_played_at_its_frame_rate(translator, trained):
    import time

    begin = time.monotonic()
    updates = list(translator.stream(trained.video(4), every=0.25))
    elapsed = time.monotonic() - begin
    video_seconds = len(read_video(trained.video(4)).frames) / 10
    assert elapsed >= 0.9 * video_seconds - 0.2
    assert updates and updates[-1].seconds > 0


def test_a_live_session_reads_what_a_stream_reads(translator, trained):
    frames = [*read_video(trained.video(1)).frames] * 3
    streamed = list(translator.stream(frames, fps=10, window_seconds=1.0))
    updates = []
    with translator.live(window_seconds=1.0) as session:
        for number, frame in enumerate(frames):
            session.push(frame, number / 10)
            updates += session.updates()
    updates += session.updates()
    assert len(updates) == pytest.approx(len(streamed), abs=1)

    def final_words(updates):
        segments = [segment for update in updates for segment in update.final]
        return [word.text for segment in segments for word in segment.words]

    assert final_words(updates)[:3] == final_words(streamed)[:3] != []
    with pytest.raises(ClipError, match="float32"), translator.live() as session:
        session.push(np.zeros((8, 8, 3), np.float32), 0.0)
    with pytest.raises(ConfigError, match="bream"):
        translator.live(decode="bream")


def test_on_segment_gets_segments_of_a_recording_as_they_become_final(translator, recording):
    segments, progress = [], []  # progress: seconds of the video
    found = translator.translate(
        recording, **WINDOWS, on_segment=segments.append, on_progress=progress.append
    )
    assert tuple(segments) == found.segments and len(segments) > 1
    assert progress == sorted(progress) and progress[-1] == found.seconds
    assert found == translator.translate(recording, **WINDOWS)


def test_on_segment_gets_a_clip_once_and_a_list_is_refused(translator, trained):
    segments = []
    found = translator.translate(trained.video(1), on_segment=segments.append)
    assert tuple(segments) == found.segments != ()
    with pytest.raises(ConfigError, match="list of 2"):
        translator.translate([trained.video(1)] * 2, on_segment=segments.append)


def test_an_exception_of_on_segment_ends_the_translation(translator, recording):
    class Stopped(Exception):
        pass

    def stop(_):
        raise Stopped

    with pytest.raises(Stopped):
        translator.translate(recording, **WINDOWS, on_segment=stop)


def test_a_stream_refuses_invalid_frames(translator):
    with pytest.raises(ClipError, match="float32"):
        list(translator.stream([np.zeros((8, 8, 3), np.float32)], fps=10))
    with pytest.raises(ConfigError, match="bream"):
        translator.stream([], decode="bream")


def test_an_ensemble_of_a_model_and_itself_equals_the_model(translator, trained):
    twice = load_translator(f"{trained.workdir},{trained.workdir}")
    assert len(twice.model.others) == 1
    alone = translator.translate(trained.video(1))
    together = twice.translate(trained.video(1))
    assert (together.text, together.tokens) == (alone.text, alone.tokens)
    assert together.score == pytest.approx(alone.score, abs=1e-4)


def test_models_of_different_vocabularies_are_no_ensemble(trained, tmp_path):
    other = shutil.copytree(trained.workdir, tmp_path / "other_vocabulary")
    num_special = 4
    tokenizer = Tokenizer.from_json((other / "tokenizer.json").read_text())
    words = [f"word{i}" for i in range(tokenizer.vocab_size - num_special)]
    other_words = learn(words, TokenizerConfig(name="word"))
    (other / "tokenizer.json").write_text(other_words.to_json())
    with pytest.raises(ConfigError, match="one vocabulary") as refused:
        load_translator([trained.workdir, other])
    assert str(trained.workdir) in str(refused.value) and str(other) in str(refused.value)


def test_models_that_read_clips_differently_are_no_ensemble(trained, tmp_path):
    workdir = shutil.copytree(trained.workdir, tmp_path / "other")
    config = json.loads((workdir / "config.json").read_text())
    config["data"]["num_frames"] = 4
    (workdir / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"config\.data\.num_frames is 8 in .* and 4 in"):
        load_translator([trained.workdir, workdir])


def test_more_hypotheses_than_the_beam_holds_are_refused(translator, trained):
    with pytest.raises(ConfigError, match=r"n_best is 3; allowed: 1 to inference\.beam_size = 2"):
        translator.translate(trained.video(0), decode="beam", n_best=3)


@pytest.fixture
def cold_translator(trained):
    """A translator without compiled programs, as in a new process."""
    import jax

    with tiny_run.light_jax(trained.cache):
        jax.clear_caches()
        yield load_translator(trained.workdir)


def test_warm_up_leaves_nothing_to_compile(trained, cold_translator, caplog):
    clips = [trained.video(number) for number in range(7)]
    cold_translator.warm_up(clips=len(clips), recordings=True)
    with compiled_programs(caplog) as names:
        cold_translator.translate(trained.video(5))
        cold_translator.translate(clips)  # in batches of 4, 2 and 1
        cold_translator.translate(
            trained.video(5), min_confidence=0.5, max_clip_seconds=0.5, window_seconds=0.4
        )
    assert names == []


def test_warm_up_compiles_for_one_clip_and_no_more(trained, cold_translator, caplog):
    with compiled_programs(caplog) as names:
        seconds = cold_translator.warm_up("beam")
    # One program for the decoder, and one for CTC if it is trained.
    assert names.count("jit(run)") == 1 + cold_translator.model.has_trained_ctc
    assert 0 < seconds < 300
    with compiled_programs(caplog) as names:
        cold_translator.translate(trained.video(5), decode="beam")
    assert names == []
    with compiled_programs(caplog) as names:
        cold_translator.translate([trained.video(5), trained.video(6)], decode="beam")
    assert "jit(run)" in names


def test_warm_up_for_a_stream_leaves_nothing_to_compile(trained, cold_translator, caplog):
    cold_translator.warm_up(live=True)
    with compiled_programs(caplog) as names:
        assert list(cold_translator.stream(trained.video(5)))
    assert names == []


def test_warm_up_logs_the_compiled_shapes_and_the_time(cold_translator, caplog):
    caplog.set_level("INFO")
    seconds = cold_translator.warm_up(clips=3)
    assert f"clips of 8 frames in batches of 1, 2 are compiled, {seconds:.1f} s" in caplog.text


@pytest.mark.parametrize("clips", [0, -1, 2.0, True, "2"])
def test_warm_up_refuses_an_invalid_number_of_clips(translator, clips):
    with pytest.raises(ConfigError, match="allowed: an integer >= 1"):
        translator.warm_up(clips=clips)


def test_warm_up_for_a_stream_takes_no_clips(translator):
    with pytest.raises(ConfigError, match="one window at a time"):
        translator.warm_up(live=True, clips=2)


def test_every_kind_of_clip_is_translated_like_the_file(translator, trained):
    path = trained.video(1)
    video = read_video(path)
    content = path.read_bytes()
    by_path = translator.translate(path)
    for source in (bytearray(content), memoryview(content), io.BytesIO(content)):
        assert translator.translate(source) == by_path
    list_of_frames = list(video.frames)
    assert translator.translate(list_of_frames, fps=video.fps) == by_path
    two_clips = translator.translate([list_of_frames, path], fps=video.fps)
    assert [translation.text for translation in two_clips] == [by_path.text] * 2


@pytest.mark.parametrize("clip", [None, [None], [[[[0, 0, 0]]]], 5])
def test_an_invalid_clip_is_a_clip_error(translator, clip):
    with pytest.raises(ClipError, match="allowed: the path of a video"):
        translator.translate(clip)


@pytest.mark.parametrize("fps", [-5, 0, float("nan"), float("inf")])
def test_an_invalid_rate_is_refused_before_reading(translator, fps):
    with pytest.raises(ClipError, match="fps is"):
        translator.translate_each(iter([]), fps=fps)
    with pytest.raises(SourceError, match="fps is"):
        translator.stream([], fps=fps)


def test_an_invalid_seed_is_refused_before_reading(translator):
    with pytest.raises(ConfigError, match="seed is"):
        translator.translate_each(iter([]), decode="sample", seed=2**70)


def test_an_error_in_bytes_does_not_name_the_temporary_file(translator):
    (error,) = translator.translate_each([b"no video"])
    assert str(error).startswith("a video of 8 bytes: ") and "tmp" not in str(error)


def test_none_in_place_of_a_frame_is_an_error(translator, trained):
    frames = [*read_video(trained.video(1)).frames[:4], None]
    with pytest.raises(ClipError, match="frame 4 of the stream has the type NoneType"):
        list(translator.stream(frames, fps=10))


def test_a_sampled_text_depends_on_frames_and_seed_only(translator, trained):
    clips = [trained.video(number) for number in range(6)]
    sampling = {"decode": "sample", "temperature": 3.0}
    alone = [translator.translate(clip, seed=1, **sampling).tokens for clip in clips]
    assert len(set(alone)) > 3  # the texts differ, so that a wrong order is noticed
    for order in ([5, 4, 3, 2, 1, 0], [3, 3, 1], [0, 1, 2, 3, 4, 5], [4, 2]):
        together = translator.translate([clips[i] for i in order], seed=1, **sampling)
        assert [translation.tokens for translation in together] == [alone[i] for i in order]
    video = read_video(clips[2])
    from_frames = translator.translate(video.frames, fps=video.fps, seed=1, **sampling)
    assert from_frames.tokens == alone[2]
    other_seed = translator.translate(clips, seed=2, **sampling)
    assert [translation.tokens for translation in other_seed] != alone


def test_inference_options_are_those_of_the_config():
    fields = {field.name: field.type for field in dataclasses.fields(InferenceConfig)}
    assert get_type_hints(InferenceOptions) == fields


@pytest.mark.parametrize(("evidence", "gives_times"), [(0.0, False), (0.3, True), (None, True)])
def test_a_ctc_head_that_misses_signs_gives_no_times(translator, evidence, gives_times):
    validation = {"ctc": 0.5} if evidence is None else {"ctc": 0.5, "ctc_evidence": evidence}
    config = translator.model.config
    ctc = dataclasses.replace(config.model.ctc, source="frames")
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, ctc=ctc))
    model = dataclasses.replace(translator.model, config=config, validation=validation)
    assert model.ctc_gives_times == gives_times
