#!/usr/bin/env bash
# From nothing to a translated clip: installs, draws a small data set, trains, evaluates, and
# translates one held-out clip. About six minutes on two CPU cores.
# A second call skips finished parts and resumes training. DATA and WORKDIR choose other folders
# than data/ and runs/quickstart.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
data=${DATA:-data} workdir=${WORKDIR:-runs/quickstart}
python=.venv/bin/python

echo "1/4 data set"
$python -m tfds_builders.build synthetic_signs --data_dir="$data" \
  --num_train=600 --num_validation=48 --num_test=48

echo "2/4 training"
$python -m signvit_jax.train --config=quickstart --workdir="$workdir" \
  --config.data.data_dir="$data"

echo "3/4 evaluation on signers and sentences that training never saw"
$python -m signvit_jax.eval --workdir="$workdir" --data_dir="$data" --split=test

echo "4/4 one held-out clip"
$python scripts/show_clip.py --workdir="$workdir" --data_dir="$data" --split=test
