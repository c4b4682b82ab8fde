"""Measure how fast poses are found in videos, and in how many of their frames.

    python scripts/bench/keypoints.py --videos=FOLDER --models=build/keypoint_models

The output has the frames per second of CPU time, which other work on the machine changes little,
and the share of frames with a pose. The frames are those that a build stores; the time of decoding
them is not counted.
"""

import argparse
import sys
import time
from pathlib import Path

from signvit_jax.data.schema import STORED_FRAME_RATE
from signvit_jax.media.pose_model import PoseModel
from signvit_jax.media.video import EXTENSIONS, Sampling, open_video
from tfds_builders.clips import Encoding

TARGET_SPEED = 80  # frames per second and core
TARGET_SHARE = 0.99  # of frames with a pose


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=Path, required=True, help="folder of videos")
    parser.add_argument("--models", required=True, help="folder that keypoint_models.sh made")
    arguments = parser.parse_args()
    videos = sorted(
        path for path in arguments.videos.iterdir() if path.suffix.lower() in EXTENSIONS
    )
    if not videos:
        sys.exit(f"error: there is no video in {arguments.videos}")
    sampling = Sampling(short_side=Encoding.short_side, max_frame_rate=STORED_FRAME_RATE)
    model = PoseModel(arguments.models)
    frames = num_with_pose = 0
    clips_below = 0
    seconds = 0.0
    for video in videos:
        with open_video(video, sampling) as stream:
            images = [image for _, image in stream.frames]
        begin = time.process_time()
        model.start_clip()
        poses = [model.points(image) for image in images]
        seconds += time.process_time() - begin
        with_pose = sum(bool((pose[:, 2] > 0).any()) for pose in poses)
        clips_below += with_pose < len(images) / 2
        frames += len(images)
        num_with_pose += with_pose
    print(f"{frames} frames of {len(videos)} videos, in {seconds:.1f} s of one core")
    print(f"{frames / seconds:.1f} frames per second and core; the target is {TARGET_SPEED}")
    print(f"a pose in {num_with_pose / frames:.2%} of the frames; the target is {TARGET_SHARE:.0%}")
    print(f"{clips_below} videos with a pose in less than half of their frames")


if __name__ == "__main__":
    main()
