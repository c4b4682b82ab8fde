"""Parameters that a model copies from another one: complete layers, and rows of shared tokens."""

import numpy as np
import pytest
from flax import traverse_util

from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import TokenizerConfig
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.text.model_vocabularies import Vocabularies
from signvit_jax.text.tokenizer import learn, learn_gloss_vocabulary, load_bert_vocabulary
from signvit_jax.weights.transfer import SourceModel, plan_transfer
from tests.helpers import tiny_model

WORDS = TokenizerConfig(name="word")
OLD = learn(["big house", "big tree"], WORDS)
NEW = learn(["a house", "a big big red house"], WORDS)


def shapes_of(config, vocabularies) -> dict:
    abstract = ModelDefinition(config, *vocabularies.sizes).abstract_params()
    return {
        path: tuple(leaf.shape)
        for path, leaf in traverse_util.flatten_dict(abstract, sep="/").items()
    }


def source(vocabularies=None, **changes) -> SourceModel:
    """Return a model with random parameters."""
    config = tiny_model.config(**changes)
    vocabularies = vocabularies or Vocabularies(OLD)
    rng = np.random.default_rng(0)
    params = {
        path: rng.normal(size=shape).astype(np.float32)
        for path, shape in shapes_of(config, vocabularies).items()
    }
    return SourceModel("runs/old", "the weights of step 3", config, vocabularies, params)


def plan(source_model: SourceModel, vocabularies=None, **changes):
    """Return what a new model with these vocabularies and changes of the config copies."""
    config = tiny_model.config(**changes)
    vocabularies = vocabularies or Vocabularies(NEW)
    return plan_transfer(source_model, config, vocabularies, shapes_of(config, vocabularies))


def test_all_parameters_but_the_vocabulary_are_copied_completely():
    params = source().params
    found = plan(source())
    vocabulary = {"decoder/embedding", "ctc_head/out/kernel", "ctc_head/out/bias"}
    assert found.rows.keys() == vocabulary
    assert found.whole.keys() == params.keys() - vocabulary
    assert all(np.array_equal(found.whole[path], params[path]) for path in found.whole)
    assert found.left == []


def test_shared_tokens_keep_their_rows_by_text():
    found = plan(source())
    for path in found.rows:
        rows = found.rows[path].rows
        assert [OLD.tokens[row] for row in rows if row >= 0] == [
            token for token in NEW.tokens if token in OLD.tokens
        ]
        assert [token for token, row in zip(NEW.tokens, rows) if row < 0] == ["a", "red"]


def test_known_new_and_unused_tokens_are_reported():
    found = plan(source())
    assert found.taken[1] == (
        "6 of 8 tokens are known there and keep their rows; new: 2 ('a', 'red'); "
        "not used here: 1 ('tree')"
    )
    assert found.taken[2].startswith("6 of 8 CTC labels are known there")


def test_all_parameters_of_the_same_model_are_copied():
    found = plan(source(), Vocabularies(OLD))
    count = len(found.whole) + len(found.rows)
    sizes = sum(value.size for value in source().params.values())
    assert found.taken[0] == f"{count} of {count} parameters, {sizes:,} of {sizes:,} numbers"
    assert found.left == []


def test_special_tokens_keep_their_rows_under_other_names(tmp_path):
    file = tmp_path / "vocab.txt"
    file.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nhouse\n")
    bert = load_bert_vocabulary(file, TokenizerConfig(name="bert", vocab_file=str(file)))
    rows = plan(source(), Vocabularies(bert)).rows["decoder/embedding"].rows
    assert rows.tolist() == [OLD.pad_id, OLD.unk_id, OLD.bos_id, OLD.eos_id, 5]


def test_ctc_labels_have_their_own_vocabulary():
    old = Vocabularies(OLD, learn_gloss_vocabulary(["HOUSE BIG", "BIG"]))
    new = Vocabularies(NEW, learn_gloss_vocabulary(["RED HOUSE"]))
    gloss = {"model__ctc__target": "gloss"}
    rows = plan(source(old, **gloss), new, **gloss).rows
    assert rows["ctc_head/out/bias"].rows.tolist() == [0, 1, 2, 3, 5, -1]
    assert len(rows["decoder/embedding"].rows) == NEW.vocab_size


def test_a_gloss_memory_takes_the_rows_of_known_glosses_or_is_reported():
    old = Vocabularies(OLD, learn_gloss_vocabulary(["HOUSE BIG", "BIG"]))
    new = Vocabularies(NEW, learn_gloss_vocabulary(["RED HOUSE"]))
    reads = tiny_model.READS_GLOSSES
    found = plan(source(old, **reads), new, **reads)
    assert found.rows["gloss_encoder/embedding"].rows.tolist() == [0, 1, 2, 3, 5, -1]
    assert "gloss_encoder/norm/scale" in found.whole
    without = plan(source(old, model__ctc__target="gloss"), new, **reads)
    missing, keys = without.left
    assert missing.startswith("15 parameters start from random values: gloss_encoder/block/")
    assert keys == "the models differ: config.model.decoder.gloss_memory is True, there False"


def test_glosses_and_texts_share_no_labels_but_the_blank():
    new = Vocabularies(NEW, learn_gloss_vocabulary(["RED HOUSE"]))
    rows = plan(source(), new, model__ctc__target="gloss").rows["ctc_head/out/kernel"].rows
    assert rows.tolist() == [0, 1, 2, 3, -1, -1]


def test_a_layer_of_another_width_starts_from_random_values():
    found = plan(source(model__decoder__ff_dim=32))
    layer = "decoder/layers/0/feed_forward"
    assert not [path for path in found.whole if path.startswith(f"{layer}/expand")]
    # The bias has the same shape, but it is not copied without its kernel.
    assert f"{layer}/contract/bias" not in found.whole
    assert f"{layer}_norm/scale" in found.whole
    shapes, keys = found.left
    assert shapes.startswith("3 parameters start from random values: ")
    assert f"{layer}/contract/kernel (24, 16) (there (32, 16))" in shapes
    assert keys == "the models differ: config.model.decoder.ff_dim is 24, there 32"


def test_parameters_without_a_place_are_listed():
    found = plan(source(model__decoder__final_norm=True, model__decoder__num_layers=2))
    assert found.left[0].startswith("22 parameters have no place in this model: ")
    missing = plan(source(), model__decoder__final_norm=True)
    assert "decoder/norm/bias (missing there)" in missing.left[0]


def test_differences_of_the_config_that_change_no_shape_are_listed():
    found = plan(source(), data__mean=[0.5, 0.5, 0.5], training__seed=3)
    assert found.left == [
        "the models differ: config.data.mean is (0.5, 0.5, 0.5), there (0.485, 0.456, 0.406)"
    ]


def test_positions_of_another_image_size_are_resized():
    found = plan(source(), data__image_size=32)
    assert found.whole["encoder/backbone/positions"].shape == (1, 17, 16)
    assert "encoder/backbone/class_token" in found.whole


def test_another_backbone_is_refused():
    with pytest.raises(ConfigError, match="whose backbone is 'mobilenet_v3_large', but"):
        plan(source(**tiny_model.MOBILENET))


@pytest.mark.parametrize(
    "key",
    ["model__encoder__vit_num_heads", "model__temporal__num_heads", "model__decoder__num_heads"],
)
def test_another_number_of_heads_is_refused(key):
    with pytest.raises(ConfigError, match=r"num_heads is 4, but runs/old was trained with 2"):
        plan(source(), **{key: 4})


def test_a_backbone_that_hardly_fits_is_refused():
    with pytest.raises(ConfigError, match=r"only 3,\d+ of the .*\n.*vit_num_layers is 3, there 2"):
        plan(source(), model__encoder__vit_num_layers=3)


def test_statistics_of_batch_norm_are_copied():
    found = plan(source(**tiny_model.MOBILENET), **tiny_model.MOBILENET)
    assert "encoder/backbone/stem/norm/var" in found.whole
    assert found.left == []
