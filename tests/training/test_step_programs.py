"""The programs of a run's steps, before they are compiled."""

import numpy as np
import pytest

from signvit_jax.config.errors import ConfigError
from signvit_jax.data.dataset import open_dataset
from signvit_jax.data.keypoints import DRAWN
from signvit_jax.training.run_data import RunData
from signvit_jax.training.step_programs import StepPrograms, device_batch
from tests.helpers import tiny_model, toy_dataset
from tests.helpers.toy_dataset import record


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    records = [
        record(f"clip-{i}", 8, text="hello there", gloss="HELLO")
        | {"keypoints": np.full((8, len(DRAWN.points), 3), 0.5, np.float16)}
        for i in range(4)
    ]
    toy_dataset.write(folder, DRAWN, train=records, validation=records[:2])
    return open_dataset(folder, "toy")


@pytest.mark.parametrize("keypoints", ["none", "auto"])
def test_batches_have_the_shapes_that_are_compiled(dataset, keypoints):
    config = tiny_model.config(data__keypoints=keypoints, **tiny_model.READS_GLOSSES)
    data = RunData(config, dataset)
    batches = data.train_batches()
    programs = StepPrograms(data, batches, None, thaws=False)
    compiled = programs._batch_shapes(6)
    arrays = device_batch(next(batches), programs.mesh)
    batches.close()
    assert {name: (array.shape, array.dtype) for name, array in arrays.items()} == {
        name: (shape.shape, shape.dtype) for name, shape in compiled.items()
    }
    assert ("keypoints" in arrays) == (keypoints == "auto")
    assert data.keypoint_layout == (DRAWN if keypoints == "auto" else None)


def test_missing_required_keypoints_are_an_error(tmp_path):
    toy_dataset.write(tmp_path, train=[record("a", 4)], validation=[record("b", 4)])
    config = tiny_model.config(data__keypoints="required", model__ctc__target="text")
    with pytest.raises(ConfigError, match="was built without keypoints; allowed here: 'auto'"):
        RunData(config, open_dataset(tmp_path, "toy"))
