"""Tests of the packaged model and clips: their content, and that the model reads the clips."""

from PIL import Image

from signvit_jax import load_translator
from signvit_jax.config.schema import from_json, without_local_paths
from signvit_jax.demo import command
from signvit_jax.demo.packaged import CLIPS, MODEL, demo_clips
from signvit_jax.demo.subtitled_gif import write_gif
from tfds_builders.synthetic_signs.clips import Options, clip

MAX_BYTES = 2_000_000
SHORTEST_CLIP = 8  # number of the shortest of the ten clips
WIDTH = 240  # of the GIF in pixels; the clips are square, so the text begins at this height
READING_MS = 1600  # milliseconds for which the last frame stays, with its text


def test_the_clips_are_the_first_of_the_test_split_of_seed_0():
    drawn = [clip(0, "test", number, Options()) for number in range(10)]
    found = demo_clips()
    assert [(part.video.stem, part.text) for part in found] == [(c.id, c.text) for c in drawn]
    assert all(part.video.is_file() for part in found)


def test_the_packaged_files_take_at_most_2_mb():
    files = [*MODEL.iterdir(), *CLIPS.iterdir()]
    assert sum(file.stat().st_size for file in files) <= MAX_BYTES


def test_the_packaged_config_names_no_path_of_its_author():
    config = from_json((MODEL / "config.json").read_text())
    assert config == without_local_paths(config)


def test_the_model_card_names_drawn_signs_and_the_license():
    card = (MODEL / "README.md").read_text()
    assert "signs drawn by a program, and no others" in card and 'license: "Apache-2.0"' in card


def test_at_least_eight_of_the_ten_clips_are_right(capsys):
    assert command.main([]) == 0
    shown = capsys.readouterr().out
    right = shown.count("right, confidence")
    assert right >= 8 and f"{right} of 10 right, by beam" in shown
    assert f"signvit translate --workdir={MODEL}" in shown


def test_words_have_the_times_of_their_signs():
    part = demo_clips()[SHORTEST_CLIP]
    found = load_translator(MODEL).translate(str(part.video), decode="ctc")
    assert found.words and found.text == " ".join(word.text for word in found.words)
    # Words of CTC's own text all have times, in their order, within the video.
    times = [(word.start, word.end) for word in found.words]
    assert all(0 <= start < end <= found.seconds for start, end in times)
    assert times == sorted(times)


def test_path_prints_only_the_folder_of_the_model(capsys):
    assert command.main(["--path"]) == 0
    assert capsys.readouterr().out == f"{MODEL}\n"


def test_a_gif_shows_each_clip_and_then_its_text(tmp_path):
    path = tmp_path / "demo.gif"
    write_gif(path, [(demo_clips()[SHORTEST_CLIP].video, "what do you buy " * 4)])
    with Image.open(path) as gif:
        assert 10 < gif.n_frames < 60
        assert gif.width == WIDTH
        gif.seek(gif.n_frames - 1)
        assert gif.info["duration"] == READING_MS
        caption = gif.convert("L").crop((0, WIDTH, WIDTH, gif.height))
        darkest, _ = caption.getextrema()
        assert darkest < 100  # of 255; the text is dark, its background has 252


def test_a_gif_that_cannot_be_written_is_an_error(monkeypatch, tmp_path, capsys):
    clips = [demo_clips()[SHORTEST_CLIP]]
    monkeypatch.setattr(command, "demo_clips", lambda: clips)
    assert command.main(["--decode=ctc", f"--gif={tmp_path / 'no' / 'demo.gif'}"]) == 1
    assert "demo.gif: No such file or directory" in capsys.readouterr().err
