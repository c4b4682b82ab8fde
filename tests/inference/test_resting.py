"""Clips of rest, in which nobody signs: a model that is trained with some gives them no text."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from signvit_jax.captions.formats import FORMATS, write
from signvit_jax.config.schema import InferenceConfig
from signvit_jax.inference.joining import join_windows
from signvit_jax.inference.predictor import Predictor
from signvit_jax.inference.windowing import VideoWindow, to_segment
from signvit_jax.models.translator import SignTranslator
from signvit_jax.optimization.losses import loss_denominators, translation_loss
from signvit_jax.parallel.mesh import make_mesh
from signvit_jax.text.tokenizer import Tokenizer, learn
from tests.helpers import tiny_model
from tfds_builders.synthetic_signs import grammar
from tfds_builders.synthetic_signs.clips import Options, draw_clip, script

pytestmark = pytest.mark.long  # trains a model

CONFIG = tiny_model.config(
    data__num_frames=6, training__label_smoothing=0.0, model__decoder__max_len=12
)
CLIPS = 8


def drawn_batch() -> tuple[dict[str, np.ndarray], list[str], Tokenizer]:
    """Return (a training batch of eight drawn clips, their texts, a tokenizer); half are rest."""
    options = Options(size=16, rest_fraction=0.5)
    signed, resting = [], []  # (index, text) of the first clips of each kind
    for index in range(200):
        glosses, _ = script(0, "train", index, options)
        if glosses and len(glosses) < 4:
            signed.append((index, grammar.translate(glosses)))
        elif not glosses:
            resting.append((index, ""))
    chosen = sorted(signed[: CLIPS // 2] + resting[: CLIPS // 2])
    texts = [text for _, text in chosen]
    tokenizer = learn(texts, tiny_model.config(tokenizer__name="word").tokenizer)
    video = np.zeros((CLIPS, 6, 16, 16, 3), np.uint8)
    tokens = np.zeros((CLIPS, 12), np.int32)
    for row, (index, text) in enumerate(chosen):
        frames, _ = draw_clip(0, "train", index, options)
        video[row] = frames[np.linspace(0, len(frames) - 1, 6).astype(int)]
        ids = [tokenizer.bos_id, *tokenizer.encode(text)[:4], tokenizer.eos_id]
        tokens[row, : len(ids)] = ids
    lengths = (tokens != 0).sum(1).astype(np.int32)
    batch = {
        "video": video,
        "frame_lengths": np.full(CLIPS, 6, np.int32),
        "tokens": tokens,
        "token_lengths": lengths,
    }
    return batch | {"weights": np.ones(CLIPS, np.float32)}, texts, tokenizer


@pytest.fixture(scope="module")
def learned():
    """(hypotheses of a model that has memorized the clips, the texts of the clips)."""
    clips, texts, tokenizer = drawn_batch()
    batch = jax.tree.map(jnp.asarray, clips)
    vocabulary = max(tokenizer.vocab_size, tiny_model.VOCABULARY)
    graph, params = nnx.split(
        SignTranslator.from_config(CONFIG, vocabulary, rngs=nnx.Rngs(params=jax.random.key(0)))
    )
    optimizer = optax.adam(3e-3)

    @jax.jit
    def steps(params, state):
        def step(carry, _):
            params, state = carry
            loss, gradients = jax.value_and_grad(
                lambda p: translation_loss(
                    nnx.merge(graph, p), batch, loss_denominators(batch), CONFIG.training
                )[0]
            )(params)
            updates, state = optimizer.update(gradients, state)
            return (optax.apply_updates(params, updates), state), loss

        return jax.lax.scan(step, (params, state), length=300)

    (params, _), losses = steps(params, optimizer.init(params))
    assert losses[-1] < 0.1 * losses[0]
    predictor = Predictor(
        lambda p: nnx.merge(graph, p),
        tokenizer,
        tokenizer,
        InferenceConfig(),
        make_mesh(CONFIG.mesh),
        ["greedy", "ctc"],
    )
    return predictor(params, clips), texts


@pytest.mark.parametrize("decoder", ["greedy", "ctc"])
def test_only_signed_clips_have_text(learned, decoder):
    found, texts = learned
    assert sum(text == "" for text in texts) == 4 and len(texts) == 8
    has_text = [hypothesis.text != "" for hypothesis in found[decoder]]
    assert has_text == [text != "" for text in texts]


def test_a_clip_at_rest_has_no_segment_in_any_format(learned):
    found, texts = learned
    windows = [
        VideoWindow(np.zeros((1, 1, 1, 3), np.uint8), float(row), row + 1.0) for row in range(CLIPS)
    ]
    window_segments = [
        to_segment(window, hypothesis) for window, hypothesis in zip(windows, found["greedy"])
    ]
    segments = join_windows(window_segments, max_seconds=2.0)
    assert [segment.start for segment in segments] == [
        float(row) for row, text in enumerate(texts) if text
    ]
    resting = [segment for segment, text in zip(window_segments, texts) if not text]
    for caption_format in FORMATS:
        assert write(resting, caption_format, 8.0) == write([], caption_format, 8.0)
