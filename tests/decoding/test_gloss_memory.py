"""Searches that read a video and its glosses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from signvit_jax.decoding.autoregressive import Source
from signvit_jax.decoding.beam_search import beam_search
from signvit_jax.decoding.decoders import DECODERS, EncodedClips
from signvit_jax.decoding.greedy import greedy
from signvit_jax.decoding.search_options import DecodingError
from tests.helpers import tiny_model
from tests.helpers.tiny_decoder import decoder, memory, options, ragged, sentence, slow_log_probs

VIDEO, GLOSSES = ragged(4), ragged(4, seed=1, positions=3)
SEARCHES = {
    "greedy": greedy,
    "beam": lambda source, options: beam_search(
        source, dataclasses.replace(options, beam_size=3, n_best=2)
    ),
}


def search(name, source, **values):
    """Return the tokens, scores and token log-probabilities of the best text of each clip."""
    found = jax.device_get(SEARCHES[name](source, options(**values)))
    return found if name == "greedy" else type(found)(*(field[:, 0] for field in found))


@pytest.mark.parametrize("name", list(SEARCHES))
def test_log_probabilities_are_the_weighted_mean_of_both_memories(name):
    made = decoder()
    found = search(name, Source(made, *VIDEO, *GLOSSES), gloss_weight=0.3)
    of_video, of_glosses = Source(made, *VIDEO), Source(made, *GLOSSES)
    for clip in range(4):
        tokens = sentence(found.tokens[clip])
        for place in range(1, len(tokens)):
            wanted = sum(
                share * slow_log_probs([source], clip, tokens[:place])
                for share, source in ((0.7, of_video), (0.3, of_glosses))
            )
            gain = found.token_log_probs[clip, place]
            assert gain == pytest.approx(wanted[tokens[place]], abs=1e-4)
            if name == "greedy":
                assert tokens[place] == np.argmax(wanted)


@pytest.mark.parametrize("name", list(SEARCHES))
@pytest.mark.parametrize(("weight", "alone"), [(0.0, VIDEO), (1.0, GLOSSES)])
def test_a_memory_of_weight_0_is_not_read(name, weight, alone):
    made = decoder()
    both = search(name, Source(made, *VIDEO, *GLOSSES), gloss_weight=weight)
    one = search(name, Source(made, *alone))
    np.testing.assert_array_equal(both.tokens, one.tokens)
    np.testing.assert_array_equal(both.scores, one.scores)


def test_members_of_an_ensemble_may_have_a_gloss_memory_or_not():
    made, plain = decoder(), Source(decoder(2), memory(4, seed=2))
    source = Source(made, *VIDEO, *GLOSSES)
    found = jax.device_get(greedy([source, plain], options(gloss_weight=0.5)))
    for clip in range(4):
        tokens = sentence(found.tokens[clip])
        means = [
            sum(0.5 * slow_log_probs([Source(made, *one)], clip, tokens[:1]) for one in both)
            for both in [(VIDEO, GLOSSES)]
        ]
        means.append(slow_log_probs([plain], clip, tokens[:1]))
        assert tokens[1] == np.argmax(np.exp(means).mean(axis=0))


@pytest.mark.parametrize("weight", [-0.1, 1.1])
def test_a_weight_out_of_range_is_refused(weight):
    with pytest.raises(DecodingError, match=r"gloss_weight is .*allowed: a number from 0 to 1"):
        options(gloss_weight=weight)


def test_a_model_reads_the_glosses_that_its_own_ctc_head_spells():
    """They are found here by a loop over the frames."""
    model = tiny_model.model(tiny_model.config(**tiny_model.READS_GLOSSES))
    head = model.ctc_head.out
    head.kernel[...] = head.kernel[...] * 30.0
    batch = tiny_model.batch()
    encoded = model.encode(jnp.asarray(batch["video"]), jnp.asarray(batch["frame_lengths"]))
    logits, steps = model.ctc_logits(encoded)
    spelled = []
    for row, length in zip(np.argmax(logits, axis=-1).tolist(), steps.tolist()):
        path = row[:length]
        spelled.append([g for i, g in enumerate(path) if g and (i == 0 or path[i - 1] != g)])
    assert max(map(len, spelled)) > 1
    glosses = np.zeros((4, 6), np.int32)
    for row, found in enumerate(spelled):
        glosses[row, : len(found)] = found
    lengths = jnp.asarray([len(found) for found in spelled])
    assert model.gloss_encoder is not None
    source = Source(
        model.decoder, *model.memory(encoded), *model.gloss_encoder(jnp.asarray(glosses), lengths)
    )
    values = options(gloss_weight=0.5)
    clips = [EncodedClips(model, encoded)]
    found = DECODERS["greedy"](clips, values, jax.random.key(0))
    wanted = greedy(source, values)
    np.testing.assert_array_equal(found.tokens[:, 0], wanted.tokens)
    np.testing.assert_allclose(found.scores[:, 0], wanted.scores, atol=1e-5)
    without = DECODERS["greedy"](clips, options(), jax.random.key(0))
    assert np.abs(without.scores[:, 0] - wanted.scores).max() > 1e-4
