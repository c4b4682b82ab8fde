#!/usr/bin/env bash
# Downloads the two pose models that `signvit build ... --keypoints=mediapipe` runs.
#   bash scripts/keypoint_models.sh [FOLDER] [WHEEL]                # default: build/keypoint_models
# They are in the wheel of mediapipe 0.10.21 (Apache-2.0; later releases have no models in them),
# which pip downloads, 36 MB, unless it is given. Nothing of it is installed. This is the only step
# that needs a network.
set -euo pipefail
folder=${1:-build/keypoint_models}
wheel=${2:-}
python=${PYTHON:-python3}
if [ -z "$wheel" ]; then
  downloads=$(mktemp -d)
  trap 'rm -rf "$downloads"' EXIT
  # One wheel for every machine: the models do not depend on it.
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --implementation=cp --python-version=3.12 --abi=cp312 --platform=manylinux_2_28_x86_64 \
    --dest "$downloads" mediapipe==0.10.21
  wheel=$(echo "$downloads"/mediapipe-*.whl)
fi
"$python" - "$wheel" "$folder" <<'PYTHON'
import hashlib
import os
import sys
import zipfile

MODELS = {
    "pose_detection/pose_detection.tflite": (
        "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c"
    ),
    "pose_landmark/pose_landmark_full.tflite": (
        "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f"
    ),
}
wheel, folder = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    contents = {name: archive.read(f"mediapipe/modules/{name}") for name in MODELS}
for name, digest in MODELS.items():
    found = hashlib.sha256(contents[name]).hexdigest()
    if found != digest:
        sys.exit(f"error: {name} in {wheel} has the SHA-256 {found}; expected: {digest}")
os.makedirs(folder, exist_ok=True)
for name, content in contents.items():
    path = os.path.join(folder, os.path.basename(name))
    with open(f"{path}.part", "wb") as file:
        file.write(content)
    os.replace(f"{path}.part", path)
    print(path)
PYTHON
