"""The packaged model and clips: what they are, and that the model reads the clips."""

from PIL import Image

from signvit_jax.commands import demo
from signvit_jax.config.fields import without_folders
from signvit_jax.config.schema import from_json
from signvit_jax.demo.packaged import CLIPS, MODEL, demo_clips
from signvit_jax.demo.subtitled_gif import write_gif
from tfds_builders.synthetic_signs.clips import Options, clip

MAX_BYTES = 2_000_000


def test_the_clips_are_the_first_of_the_test_split_of_seed_0():
    drawn = [clip(0, "test", number, Options()) for number in range(10)]
    found = demo_clips()
    assert [(part.video.stem, part.text) for part in found] == [(c.id, c.text) for c in drawn]
    assert all(part.video.is_file() for part in found)


def test_the_packaged_files_take_at_most_2_mb():
    files = [*MODEL.iterdir(), *CLIPS.iterdir()]
    assert sum(file.stat().st_size for file in files) <= MAX_BYTES


def test_the_packaged_config_names_no_folder_of_its_maker():
    config = from_json((MODEL / "config.json").read_text())
    assert without_folders(config) == config


def test_the_card_says_that_it_knows_drawn_signs_only():
    card = (MODEL / "README.md").read_text()
    assert "signs drawn by a program, and no others" in card and 'license: "Apache-2.0"' in card


def test_eight_of_the_ten_clips_are_translated_right(capsys):
    assert demo.main([]) == 0
    shown = capsys.readouterr().out
    right = shown.count("right, confidence")
    assert right >= 8 and f"{right} of 10 right, by beam" in shown
    assert f"signvit translate --workdir={MODEL}" in shown


def test_path_prints_the_folder_of_the_model_alone(capsys):
    assert demo.main(["--path"]) == 0
    assert capsys.readouterr().out == f"{MODEL}\n"


def test_a_gif_shows_each_clip_and_then_its_text(tmp_path):
    path = tmp_path / "demo.gif"
    write_gif(path, [(demo_clips()[8].video, "what do you buy " * 4)])
    with Image.open(path) as gif:
        assert 10 < gif.n_frames < 60 and gif.width == 240
        gif.seek(gif.n_frames - 1)
        assert gif.info["duration"] == 1600
        caption = gif.convert("L").crop((0, 240, 240, gif.height))
        assert caption.getextrema()[0] < 100  # ink


def test_a_gif_that_cannot_be_written_is_an_error(monkeypatch, tmp_path, capsys):
    clips = demo_clips()[8:9]
    monkeypatch.setattr(demo, "demo_clips", lambda: clips)
    assert demo.main(["--decode=ctc", f"--gif={tmp_path / 'no' / 'demo.gif'}"]) == 1
    assert "demo.gif: No such file or directory" in capsys.readouterr().err
