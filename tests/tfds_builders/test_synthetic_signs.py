"""Tests of the drawn data set: its language, movements, frames and splits."""

import collections
import dataclasses
import itertools
import json
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from signvit_jax.data.dataset import open_dataset
from signvit_jax.data.keypoints import DRAWN
from signvit_jax.runtime.exit_codes import UsageError
from tfds_builders.base import REPORT_NAME
from tfds_builders.synthetic_signs import grammar, motion, render
from tfds_builders.synthetic_signs.clips import (
    SPLITS,
    Options,
    clip,
    draw_clip,
    keypoints_of,
    performance,
    script,
    signer_of,
)
from tfds_builders.synthetic_signs.signer import NUM_SIGNERS, Scene, Signer
from tfds_builders.synthetic_signs.signs import SHAPES, SIGNS

AVERAGE = Signer()


def draw_sign(
    gloss: str,
    signer: Signer = AVERAGE,
    num_frames: int = 4,
    scene: Scene = Scene(),  # noqa: B008
) -> np.ndarray:
    """Draw a single sign at `num_frames` equally spaced times, from its beginning to its end."""
    return render.draw(
        *movement_of(gloss, signer, num_frames), signer, scene, 64, np.random.default_rng(0)
    )


def movement_of(gloss: str, signer: Signer, num_frames: int) -> tuple:
    """Return the arguments of `render` for a sign: both arms, the head's pose, and the times."""
    utterance = motion.utter([gloss], signer)
    ((_, start, end),) = utterance.spans
    times = np.linspace(start, end, num_frames)
    arms = [
        motion.arm(line.at(times), signer, side)
        for line, side in ((utterance.dominant, 1.0), (utterance.weak, -1.0))
    ]
    return *arms, motion.head_pose(utterance, times), times


@pytest.fixture(scope="module")
def language() -> dict[tuple[str, ...], str]:
    """All sentences (glosses -> English): every sequence of this form that the grammar accepts."""
    things = [
        (noun, *adjectives, *number)
        for noun in grammar.THINGS
        for adjectives in [(), ("BIG",), ("RED",), ("BIG", "RED"), ("RED", "BIG")]
        for number in [(), ("TWO",), ("MANY",)]
    ]
    subjects = [(), *((p,) for p in grammar.PEOPLE), *itertools.permutations(grammar.PEOPLE, 2)]
    slots = (
        [(), ("YESTERDAY",), ("TOMORROW",)],
        subjects,
        [(), *things, *((p,) for p in grammar.PEOPLE)],
        [(v,) for v in grammar.VERBS],
        [(), ("NOT",)],
        [(), ("Q",), ("WHAT",), ("WHO",)],
    )
    found = {}
    for parts in itertools.product(*slots):
        glosses = tuple(itertools.chain(*parts))
        if len(glosses) <= grammar.MAX_GLOSSES and glosses not in found:
            try:
                found[glosses] = grammar.translate(glosses)
            except grammar.GrammarError:
                continue
    return found


# --- the language ---


@pytest.mark.parametrize(
    ("glosses", "english"),
    [
        ("MOTHER SLEEP", "mother sleeps"),
        ("TOMORROW MOTHER BOOK BUY", "mother will buy a book tomorrow"),
        ("YESTERDAY I HOUSE RED BIG SEE", "i saw a big red house yesterday"),
        ("FATHER APPLE LIKE NOT", "father does not like an apple"),
        ("YOU CUP TWO BUY Q", "do you buy two cups"),
        ("I MOTHER BOOK MANY LIKE", "mother and i like many books"),
        ("YESTERDAY TEACHER I SEE NOT", "the teacher did not see me yesterday"),
        ("TEACHER YOU SLEEP NOT Q", "do you and the teacher not sleep"),
        ("TOMORROW FATHER BUY WHAT", "what will father buy tomorrow"),
        ("YESTERDAY APPLE RED BUY WHO", "who bought a red apple yesterday"),
        ("I LIKE NOT WHO", "who does not like me"),
    ],
)
def test_the_grammar_translates_glosses_to_english(glosses, english):
    assert grammar.translate(glosses.split()) == english


@pytest.mark.parametrize(
    "glosses",
    [
        "",
        "BOOK",
        "MOTHER BUY",
        "BOOK BUY",
        "MOTHER MOTHER SEE",
        "MOTHER BOOK SLEEP",
        "I WHO SLEEP",
        "SLEEP MOTHER",
        "MOTHER TWO BOOK BUY",
        "TREE SLEEP",
    ],
)
def test_sequences_that_are_not_sentences_are_refused(glosses):
    with pytest.raises(grammar.GrammarError):
        grammar.translate(glosses.split())


def test_the_language_has_thousands_of_sentences(language):
    words = collections.Counter(word for text in language.values() for word in text.split())
    assert len(set(language.values())) > 10_000
    assert 35 <= len(words) <= 45
    assert {len(glosses) for glosses in language} == {2, 3, 4, 5, 6}
    assert all(
        text == text.lower() and text.replace(" ", "").isalpha() for text in language.values()
    )


def test_equal_sentences_have_the_same_glosses_in_some_order(language):
    by_text = collections.defaultdict(set)
    for glosses, text in language.items():
        by_text[text].add(tuple(sorted(glosses)))
    # English does not keep the order of two people, nor of two adjectives.
    assert all(len(bags) == 1 for bags in by_text.values())


def test_english_is_not_a_monotone_copy_of_the_glosses(language):
    english_words = {}
    for table in (
        grammar.TIMES,
        grammar.PEOPLE,
        grammar.THINGS,
        grammar.ADJECTIVES,
        grammar.NUMBERS,
        grammar.VERBS,
    ):
        for gloss, forms in table.items():
            is_single = isinstance(forms, str)
            english_words[gloss] = {forms} if is_single else set(" ".join(forms).split())
    english_words |= {"NOT": {"not"}, "WHAT": {"what"}, "WHO": {"who"}, "Q": set()}

    def is_monotone_copy(glosses, text) -> bool:
        """Return whether the text has a word of each gloss, in the order of the glosses."""
        words = text.split()
        position = 0
        for gloss in glosses:
            while position < len(words) and words[position] not in english_words[gloss]:
                position += 1
            if position == len(words):
                return False
        return True

    assert is_monotone_copy(("MOTHER", "SLEEP"), "mother sleeps")
    assert np.mean([is_monotone_copy(*sentence) for sentence in language.items()]) < 0.1


# --- the splits ---


def scripts(split: str, count: int = 300, seed: int = 0) -> list[tuple[tuple[str, ...], Signer]]:
    return [script(seed, split, index, Options()) for index in range(count)]


def test_splits_share_no_sentence_and_no_signer():
    content = {}
    for split in SPLITS:
        # Two data sets (seeds 0 and 1) share no sentence and no signer between splits either.
        glosses, signers = zip(*scripts(split), *scripts(split, seed=1))
        people = {dataclasses.replace(signer, name="") for signer in signers}
        content[split] = (
            {grammar.translate(g) for g in glosses},
            {signer.name for signer in signers},
            people,
        )
    for a, b in itertools.combinations(SPLITS, 2):
        assert not any(of_a & of_b for of_a, of_b in zip(content[a], content[b]))


@pytest.mark.parametrize("split", SPLITS)
def test_every_gloss_and_many_signers_are_in_every_split(split):
    glosses, signers = zip(*scripts(split))
    seen = collections.Counter(itertools.chain(*glosses))
    assert set(seen) == set(grammar.GLOSSES) == set(SIGNS)
    assert min(seen.values()) >= 0.03 * len(glosses)
    assert len({signer.name for signer in signers}) > 0.8 * NUM_SIGNERS[split]


@pytest.mark.parametrize(("num_signs", "max_glosses"), [(grammar.MIN_SIGNS, 4), (16, 5)])
def test_a_smaller_vocabulary_has_all_its_signs_in_every_split(num_signs, max_glosses):
    options = Options(num_signs=num_signs, max_glosses=max_glosses)
    texts = {}
    for split in SPLITS:
        glosses = [script(0, split, index, options)[0] for index in range(200)]
        assert set(itertools.chain(*glosses)) == set(grammar.BY_USE[:num_signs])
        assert {len(signed) for signed in glosses} <= set(range(2, max_glosses + 1))
        texts[split] = {grammar.translate(signed) for signed in glosses}
    assert not texts["train"] & (texts["validation"] | texts["test"])


def test_the_complete_vocabulary_is_that_of_earlier_releases():
    assert sorted(grammar.BY_USE) == sorted(grammar.GLOSSES)
    everything = Options(num_signs=len(grammar.GLOSSES), max_glosses=grammar.MAX_GLOSSES)
    for index in range(50):
        assert script(0, "train", index, Options()) == script(0, "train", index, everything)
    drawn_by_release_0_1 = ("YESTERDAY", "I", "HOUSE", "BIG", "SEE")
    assert script(0, "test", 0, Options())[0] == drawn_by_release_0_1


def test_rest_clips_are_drawn_only_on_request():
    assert all(glosses for glosses, _ in scripts("train", 100))
    resting = [clip(0, "train", i, Options(rest_fraction=0.3)) for i in range(100)]
    empty = [c for c in resting if c.text == ""]
    assert 15 <= len(empty) <= 45
    assert all(c.gloss == "" for c in empty)
    frames, _ = empty[0].frames()
    assert 18 <= len(frames) <= 64


# --- the movement ---


@pytest.mark.parametrize("gloss", SIGNS)
def test_hands_are_where_the_sign_says(gloss):
    utterance = motion.utter(
        ["BOOK", gloss, "HOUSE"] if gloss not in ("BOOK", "HOUSE") else [gloss], AVERAGE
    )
    _, start, end = next(span for span in utterance.spans if span[0] == gloss)
    for keys, line, side in (
        (SIGNS[gloss].dominant, utterance.dominant, 1.0),
        (SIGNS[gloss].weak, utterance.weak, -1.0),
    ):
        if not keys:
            continue
        arm = motion.arm(
            line.at(np.array([start + (end - start) * key.at for key in keys])), AVERAGE, side
        )
        # The average signer has the body coordinates of the table `SIGNS`.
        np.testing.assert_allclose(arm.hand, [key.where for key in keys], atol=1e-6)
        np.testing.assert_allclose(arm.angle, [key.angle for key in keys], atol=1e-6)
        np.testing.assert_allclose(arm.fingers, [SHAPES[key.shape] for key in keys], atol=1e-6)


def test_every_signer_reaches_every_sign():
    for split in SPLITS:
        for number in range(NUM_SIGNERS[split]):
            signer = signer_of(split, number)
            utterance = motion.utter(list(SIGNS), signer, rng=np.random.default_rng(number))
            times = np.linspace(0, utterance.seconds, 400)
            for line, side in ((utterance.dominant, 1.0), (utterance.weak, -1.0)):
                track = line.at(times)
                arm = motion.arm(track, signer, side)
                np.testing.assert_allclose(
                    np.linalg.norm(arm.elbow - arm.shoulder, axis=-1),
                    motion.UPPER_ARM * signer.arm,
                    rtol=1e-6,
                )
                np.testing.assert_allclose(
                    np.linalg.norm(arm.wrist - arm.elbow, axis=-1),
                    motion.FOREARM * signer.arm,
                    rtol=1e-6,
                )
                in_sign = (times > utterance.spans[0][1]) & (times < utterance.spans[-1][2])
                assert np.abs(arm.hand - track[:, :3])[in_sign].max() < 0.05


def test_movement_is_smooth_and_does_not_rest_between_signs():
    for index in range(40):
        _, _, utterance = performance(0, "train", index, Options())
        times = np.arange(0, utterance.seconds, 0.005)
        hand = utterance.dominant.at(times)[:, :3]
        assert (
            np.linalg.norm(np.diff(hand, axis=0), axis=-1).max() < 0.09
        )  # below 18 shoulder widths per second, so no jump
        rest = hand[0]
        np.testing.assert_allclose(hand[-1], rest, atol=0.01)
        signing = (times > utterance.spans[0][1]) & (times < utterance.spans[-1][2])
        assert np.linalg.norm(hand[signing] - rest, axis=-1).min() > 0.12


def test_clips_have_14_to_64_frames():
    lengths = collections.defaultdict(list)
    for index in range(400):
        _, _, utterance = performance(0, "train", index, Options())
        lengths[len(utterance.spans)].append(int(np.ceil(utterance.seconds * 12.5)))
        ends = [end for _, _, end in utterance.spans]
        seconds = [later - earlier for earlier, later in itertools.pairwise(ends)]
        assert all(0.3 < s < 1.1 for s in seconds)
    assert max(map(max, lengths.values())) <= 64
    assert min(map(min, lengths.values())) >= 14
    means = [np.mean(lengths[n]) for n in sorted(lengths)]
    assert means == sorted(means)


# --- the frames ---


def test_different_signs_look_different():
    images = {gloss: draw_sign(gloss).astype(int) for gloss in SIGNS}
    for a, b in itertools.combinations(SIGNS, 2):
        apart = np.abs(images[a] - images[b]).max(axis=-1) > 40
        assert apart.mean(axis=(1, 2)).max() > 0.01, (
            a,
            b,
        )  # 1 % of the pixels at some time; a hand has about 60 of 4,096


def test_hand_is_drawn_where_the_kinematics_put_it():
    frames = draw_sign("TWO", num_frames=3)
    x, y, _ = SIGNS["TWO"].dominant[-1].where
    column, row = (
        32 - x * 64 / render.HEIGHT,
        64 * render.SHOULDER_LINE + y * 64 / render.HEIGHT,
    )  # the dominant hand is at the image's left
    palm = frames[-1, int(row) - 1 : int(row) + 2, int(column) - 1 : int(column) + 2].reshape(-1, 3)
    assert np.abs(palm.astype(int) - AVERAGE.skin).max() < 25


def test_left_handed_signer_is_the_mirror_image():
    left = draw_sign("LIKE", dataclasses.replace(AVERAGE, left_handed=True))
    right = draw_sign("LIKE")
    assert (
        np.abs(left[:, :, ::-1].astype(int) - right).mean()
        < 3
        < 0.5 * np.abs(left.astype(int) - right).mean()
    )


SCENES = {
    "plain": Scene(),
    "moved": Scene(shift=(0.06, -0.03)),
    "turned": Scene(rotation=4.0),
    "near": Scene(zoom=1.1),
    "swaying": Scene(sway=(0.03, 1.0)),
}


@pytest.mark.parametrize("left_handed", [False, True])
@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
def test_keypoints_are_where_the_body_parts_are_drawn(scene, left_handed):
    """The nose and the hands have colors that nothing around them has."""
    signer = dataclasses.replace(
        AVERAGE, left_handed=left_handed, skin=(200, 60, 60), shirt=(20, 60, 200)
    )
    side, other = ("left", "right") if left_handed else ("right", "left")
    for gloss in ("TWO", "MANY", "Q"):
        frames = draw_sign(gloss, signer, scene=scene).astype(int)
        points = render.keypoints(*movement_of(gloss, signer, 4), signer, scene)
        assert points.shape == (4, len(DRAWN.points), 3) and (points[..., 2] == 1).all()
        # The signer faces the camera: the left wrist is at the right of the image.
        left_x, right_x = (points[:, DRAWN.index(f"{hand}_wrist"), 0] for hand in ("left", "right"))
        assert (left_x > right_x).all()
        for name, color in {
            "nose": (164, 49, 49),
            f"{side}_index": signer.skin,
            f"{side}_pinky": signer.skin,
        }.items():
            for frame, (x, y) in zip(frames, 64 * points[:, DRAWN.index(name), :2]):
                place = frame[round(y) - 1 : round(y) + 1, round(x) - 1 : round(x) + 1]
                assert np.abs(place - color).sum(axis=-1).min() < 50, (gloss, name, place)
        shoulder, wrist = (
            points[:, DRAWN.index(f"{side}_{part}")] for part in ("shoulder", "wrist")
        )
        assert (wrist[:, 1] < points[:, DRAWN.index(f"{other}_wrist"), 1]).all() or gloss == "MANY"
        assert (np.abs(shoulder[:, :2] - wrist[:, :2]).sum(axis=-1) < 0.7).all()


def test_signers_and_scenes_look_different():
    faces = [draw_sign("BOOK", signer_of("train", number), 1).astype(int) for number in range(6)]
    for a, b in itertools.combinations(faces, 2):
        assert np.abs(a - b).mean() > 3
    plain = draw_sign("BOOK").astype(int)
    for change in (
        {"zoom": 1.1},
        {"rotation": 4.0},
        {"shift": (0.05, 0.0)},
        {"wall": "clutter"},
        {"wall": "gradient"},
        {"noise": 6.0},
        {"light": (0.15, 0.1)},
    ):
        assert np.abs(draw_sign("BOOK", scene=Scene(**change)) - plain).mean() > 0.5, change


@pytest.mark.parametrize("size", [32, 64, 100])
def test_size_and_frame_rate_are_options(size):
    options = Options(size=size, frame_rate=6.25)
    frames, rate = draw_clip(0, "test", 3, options)
    assert frames.dtype == np.uint8 and frames.shape[1:] == (size, size, 3) and rate == 6.25
    full, _ = draw_clip(0, "test", 3, dataclasses.replace(options, frame_rate=12.5))
    assert len(frames) == -(-len(full) // 2)


# --- the clips and the builder ---


def test_a_clip_is_the_same_in_every_process():
    original = clip(3, "validation", 17, Options())
    frames, rate = original.frames()
    copy = pickle.loads(pickle.dumps(clip(3, "validation", 17, Options())))
    assert (copy.id, copy.text, copy.gloss, copy.signer) == (
        original.id,
        original.text,
        original.gloss,
        original.signer,
    )
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
        elsewhere, other_rate = other.submit(copy.frames).result()
    np.testing.assert_array_equal(frames, elsewhere)
    assert rate == other_rate


def test_seed_split_and_index_each_change_the_clip():
    frames = [
        draw_clip(*which, Options())
        for which in ((0, "train", 0), (1, "train", 0), (0, "test", 0), (0, "train", 1))
    ]
    for (a, _), (b, _) in itertools.combinations(frames, 2):
        assert a.shape != b.shape or (a != b).any()


def test_builder_stores_the_drawn_clips(tmp_path):
    from tfds_builders.build import main

    common = [
        "synthetic_signs",
        f"--data_dir={tmp_path}",
        "--num_train=3",
        "--num_validation=2",
        "--num_test=1",
        "--size=32",
        "--workers=1",
    ]
    assert main(common) == 0
    (folder,) = (tmp_path / "synthetic_signs").iterdir()
    for split, count in (("train", 3), ("validation", 2), ("test", 1)):
        entries = [
            json.loads(line) for line in (folder / f"{split}.index.jsonl").read_text().splitlines()
        ]
        assert len(entries) == count
        for index, entry in enumerate(entries):
            expected = clip(0, split, index, Options(size=32))
            assert (entry["id"], entry["text"], entry["gloss"], entry["signer"]) == (
                expected.id,
                expected.text,
                expected.gloss,
                expected.signer,
            )
            assert (entry["num_frames"], entry["fps"]) == (len(expected.frames()[0]), 12.5)
    assert main(common) == 0
    with pytest.raises(UsageError, match="seed"):  # built with other options
        main([*common, "--seed=1"])
    # A release without an option built the same data set as the option's default does now.
    report = next(tmp_path.rglob(REPORT_NAME))
    content = json.loads(report.read_text())
    for name in ("num_signs", "max_signs"):
        del content["settings"][name]
    report.write_text(json.dumps(content))
    assert main(common) == 0
    with pytest.raises(UsageError, match="num_signs"):
        main([*common, "--num_signs=16"])


def test_exact_keypoints_are_stored_beside_the_same_frames(tmp_path):
    from tfds_builders.build import main

    common = [
        "synthetic_signs",
        "--num_train=3",
        "--num_validation=1",
        "--num_test=1",
        "--size=32",
        "--workers=1",
    ]
    for name, more in (("none", []), ("exact", ["--keypoints=exact"])):
        assert main([*common, f"--data_dir={tmp_path / name}", *more]) == 0
    none, exact = (open_dataset(tmp_path / name, "synthetic_signs") for name in ("none", "exact"))
    for i, entry in enumerate(exact.split("train").index):
        record = exact.split("train")[i]
        expected = keypoints_of(0, "train", i, Options(size=32))
        assert np.abs(record.pop("keypoints") - expected).max() < 1e-3
        assert record == none.split("train")[i]
        assert entry == dataclasses.replace(none.split("train").index[i], keypoints=1.0)
    assert exact.keypoint_layout == DRAWN and none.keypoint_layout is None
    reports = [json.loads((built.folder / REPORT_NAME).read_text()) for built in (none, exact)]
    assert "keypoints" not in reports[0] and "keypoints" not in reports[0]["settings"]
    assert reports[1]["keypoints"] == {**DRAWN.to_json(), "frames": 1.0, "few": []}
    assert reports[1]["settings"] == {**reports[0]["settings"], "keypoints": "exact"}
    assert reports[1]["fingerprint"] == reports[0]["fingerprint"]
    assert sorted(file.name for file in none.folder.iterdir()) == sorted(
        file.name for file in exact.folder.iterdir() if file.name != "metadata.json"
    )
    with pytest.raises(UsageError, match="keypoints was 'exact', now 'none'"):
        main([*common, f"--data_dir={tmp_path / 'exact'}"])
    assert main([*common, f"--data_dir={tmp_path / 'exact'}", "--keypoints=exact"]) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_train": -1},
        {"size": 8},
        {"seed": -1},
        {"rest_fraction": 1.5},
        {"num_signs": 11},
        {"num_signs": 24},
        {"max_signs": 7},
    ],
)
def test_impossible_options_are_refused(tmp_path, wrong):
    from tfds_builders.base import BuildError
    from tfds_builders.synthetic_signs.synthetic_signs_dataset_builder import Builder

    (name,) = wrong
    with pytest.raises(BuildError, match=f"--{name} is {wrong[name]}; allowed"):
        Builder(data_dir=tmp_path, options=wrong).plan()
