"""The weights of the reference system: their conversion, and tensors that do not fit."""

from pathlib import Path

import numpy as np
import pytest

from signvit_jax.weights.reference import (
    WeightsError,
    assign,
    flat_parameters,
    from_ours,
    load_reference,
    to_ours,
)

VECTORS = Path(__file__).parents[1] / "fixtures" / "translator_small.npz"


@pytest.fixture(scope="module")
def loaded():
    """(the reference's tensors by name, the model with them)."""
    with np.load(VECTORS) as file:
        vectors = dict(file)
    tensors = {
        name.removeprefix("params/"): value
        for name, value in vectors.items()
        if name.startswith("params/")
    }
    return tensors, load_reference(vectors)[1]


def test_conversion_to_the_reference_and_back_is_exact(loaded):
    tensors, model = loaded
    back = from_ours(flat_parameters(model))
    assert set(back) == set(tensors) - {"decoder.pos_encoder.pe"}
    for name, value in back.items():
        np.testing.assert_array_equal(value, tensors[name].astype(np.float32), err_msg=name)
    ours = flat_parameters(model)
    again = to_ours(back, {path: value.shape for path, value in ours.items()})
    for path, value in again.items():
        np.testing.assert_array_equal(value, ours[path], err_msg=path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("encoder.backbone.norm.weight", None, "missing: encoder.backbone.norm.weight"),
        ("optimizer.state", np.zeros(3), "left over: optimizer.state"),
        ("ctc_head.3.bias", np.zeros(3), "ctc_head.3.bias: shape"),
        (
            "encoder.backbone.transformer.layers.0.linear1.bias",
            np.zeros(3),
            "linear1.bias: shape",
        ),
    ],
    ids=["missing", "left over", "another shape", "another shape in one layer"],
)
def test_tensors_that_do_not_fit_are_listed(loaded, name, value, message):
    tensors, model = loaded
    changed = {key: tensor for key, tensor in tensors.items() if key != name}
    if value is not None:
        changed[name] = value
    with pytest.raises(WeightsError, match=message):
        assign(model, changed)


def test_parameters_that_the_reference_lacks_are_refused(loaded):
    _, model = loaded
    with pytest.raises(WeightsError, match="decoder/norm/scale"):
        from_ours(flat_parameters(model) | {"decoder/norm/scale": np.ones(8)})
