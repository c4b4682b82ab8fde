#!/usr/bin/env bash
# From nothing to translated clips: installs, draws a small data set, trains, evaluates, and
# translates three clips by signers that training never saw. Six to nine minutes on two CPU cores.
# A second call skips finished parts and resumes training. DATA and WORKDIR choose other folders
# than data/ and runs/quickstart, SEED another data set and other random numbers.
started=$SECONDS
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
data=${DATA:-data} workdir=${WORKDIR:-runs/quickstart} seed=${SEED:-0}
python=.venv/bin/python

phase() { printf '\n[%s] %s\n' "$(date +%H:%M:%S)" "$1"; }

phase "1/4 drawing 2,264 clips of 16 signs"
$python -m tfds_builders.build synthetic_signs --data_dir="$data" --seed="$seed" \
  --num_signs=16 --max_signs=5 --frame_rate=7.5 --size=48 \
  --num_train=1920 --num_validation=64 --num_test=280

phase "2/4 training: loss and wer (word error rate) fall, slowly at first"
$python -m signvit_jax.train --config=quickstart --workdir="$workdir" \
  --config.data.data_dir="$data" --config.training.seed="$seed"

phase "3/4 evaluation on signers and sentences that training never saw"
$python -m signvit_jax.eval --workdir="$workdir" --data_dir="$data" --split=test \
  --decode=beam,greedy

phase "4/4 three of these clips, as videos"
$python scripts/show_clips.py --workdir="$workdir" --data_dir="$data" --split=test

cat <<END

done in $((SECONDS - started)) s
  report       $workdir/eval/test.html
  curves       $workdir/metrics.png
  checkpoints  $workdir/checkpoints

next
  source .venv/bin/activate
  signvit check VIDEOS                                     # your own videos: what can be built
  signvit build video_folder --help                        # build them, then train on them
  signvit translate --workdir=$workdir clip.mp4 --format=srt --output_dir=captions
END
