#!/usr/bin/env bash
# The main job from end to end, in a folder of its own: a compute budget in, a measured engine out;
# then INT8 on a model that can lose something: a small trained one, with images rendered here.
set -euo pipefail
shapes=$(cd "$(dirname "$0")/shapes" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

step() {
  printf '\n\033[1m$ %s\033[0m\n' "$*"
  "$@"
}

step deploykit export --phi 3
step deploykit build-engine --int8
step deploykit fit --gpu T4 --max-latency 10ms
step deploykit build-engine --int8 --gpu T4
step deploykit build-engine --gpu cpu
step deploykit bench engines/efficientnet-phi3/model.fp32.cpu.onnx
step deploykit fit --gpu cpu --max-latency 100ms

step python "$shapes/render.py" --out photos --count 512 --seed 1
step python "$shapes/render.py" --out labelled --count 1000 --seed 2
step deploykit export --rule formula --phi -6 --side 64 --weights "$shapes/weights.safetensors" -o shapes
step deploykit calibrate --onnx shapes/model.onnx --data photos
step deploykit quantize --onnx shapes/model.onnx
step deploykit eval shapes/model.int8.onnx --data labelled
step deploykit sensitivity shapes/model.onnx --data labelled
# What each method makes of it, and what a bad calibration does.
step python "$shapes/compare.py" --count 1000
