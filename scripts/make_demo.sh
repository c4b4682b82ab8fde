#!/usr/bin/env bash
# Makes what `signvit demo` shows: trains configs/small.py on drawn signs, exports it as INT8, and
# draws the first ten clips of the test split. The clips follow from the seed of the data set, which
# is fixed before training. About an hour on one CPU core. DATA and WORKDIR choose other folders.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
data=${DATA:-data} workdir=${WORKDIR:-runs/demo}
python=.venv/bin/python

$python -m tfds_builders.build synthetic_signs --data_dir="$data" \
  --num_train=6000 --num_validation=200 --num_test=1300
$python -m signvit_jax.train --config=small --workdir="$workdir" --config.data.data_dir="$data"
$python -m signvit_jax.eval --workdir="$workdir" --data_dir="$data" --split=test \
  --decode=beam,greedy,ctc --calibrate
rm -rf signvit_jax/demo/model signvit_jax/demo/clips
$python -m signvit_jax.export --workdir="$workdir" --data_dir="$data" --format=int8 \
  --report_clips=1300 --license=Apache-2.0 --text_language=English \
  --sign_language="none: signs drawn by a program, and no others" --output=signvit_jax/demo/model
$python scripts/draw_demo_clips.py --output=signvit_jax/demo/clips
.venv/bin/signvit demo --gif=docs/demo.gif
