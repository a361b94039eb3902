#!/usr/bin/env bash
# The main job from end to end, in a folder of its own: a compute budget in, a measured engine out.
set -euo pipefail
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
