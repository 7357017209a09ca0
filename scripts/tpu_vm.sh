#!/usr/bin/env bash
# A Cloud TPU slice from creation to deletion, one step a call:
#
#   scripts/tpu_vm.sh create                  a queued resource: the slice comes when there is room
#   scripts/tpu_vm.sh install                 this checkout and Python 3.12 on every host
#   scripts/tpu_vm.sh run --config=configs/irra.py:quickstart       trains on all hosts; also continues
#   scripts/tpu_vm.sh status                  is it there, does it train, what did it log last?
#   scripts/tpu_vm.sh fetch runs/tpu          copies results from the bucket to this machine
#   scripts/tpu_vm.sh delete                  gives the slice back; the bucket stays
#
# Set before, as in `export PROJECT=my-project BUCKET=gs://my-bucket`:
#   PROJECT  Google Cloud project              BUCKET  gs://..., in the region of the zone
#   ZONE     us-west4-a                        NAME    tipr-jax
#   TYPE     v5litepod-16 (v5e, 16 chips on 4 hosts); v5litepod-1 is one chip
#   SPOT     1: cheaper, and may be taken back at any time; `run` continues afterwards
# Needs gcloud (https://cloud.google.com/sdk), logged in, with the TPU API enabled:
#   gcloud services enable tpu.googleapis.com
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() { sed -n '2,/^set/p' "${BASH_SOURCE[0]}" | sed '$d; s/^# \{0,1\}//'; }
command=${1:-help}
[ $# -gt 0 ] && shift
if [ "$command" = help ] || [ "$command" = --help ]; then
  usage
  exit 0
fi

: "${PROJECT:?set PROJECT, the Google Cloud project, as in export PROJECT=my-project}"
ZONE=${ZONE:-us-west4-a}
NAME=${NAME:-tipr-jax}
TYPE=${TYPE:-v5litepod-16}
# The software of a host. v5e: v2-alpha-tpuv5-lite, v5p: v2-alpha-tpuv5, v6e: v2-alpha-tpuv6e.
case "$TYPE" in
  v5litepod-*) VERSION=v2-alpha-tpuv5-lite ;;
  v5p-*) VERSION=v2-alpha-tpuv5 ;;
  v6e-*) VERSION=v2-alpha-tpuv6e ;;
  *)
    echo "error: TYPE=$TYPE; expected v5litepod-N, v5p-N or v6e-N, as in TYPE=v5litepod-16" >&2
    exit 2
    ;;
esac
place=(--project="$PROJECT" --zone="$ZONE")

# Runs a command line on every host of the slice at once.
on_all_hosts() {
  gcloud compute tpus tpu-vm ssh "$NAME" "${place[@]}" --worker=all --command="$1"
}

need_bucket() {
  : "${BUCKET:?set BUCKET, where runs and data lie, as in export BUCKET=gs://my-bucket}"
}

case "$command" in
  create)
    # A queued resource waits for room. Asking for the slice directly fails where there is none.
    spot=()
    [ "${SPOT:-}" = 1 ] && spot=(--spot)
    gcloud compute tpus queued-resources create "$NAME" "${place[@]}" --node-id="$NAME" \
      --accelerator-type="$TYPE" --runtime-version="$VERSION" "${spot[@]}"
    echo "asked for $TYPE in $ZONE; scripts/tpu_vm.sh status says when it is ACTIVE"
    ;;
  install)
    # Hosts have Ubuntu 22.04, whose Python 3.10 is too old: uv brings 3.12. JAX and the TPU's
    # library are installed together, so that they fit. TensorFlow's TPU package must stay away: it
    # replaces the library, and JAX computes on the CPU without a word.
    archive=$(mktemp --suffix=.tar.gz)
    trap 'rm -f "$archive"' EXIT
    git archive --format=tar.gz --output="$archive" HEAD
    gcloud compute tpus tpu-vm scp "$archive" "$NAME:tipr_jax.tar.gz" "${place[@]}" --worker=all
    on_all_hosts '
      set -e
      mkdir -p tipr_jax && tar -xzf tipr_jax.tar.gz -C tipr_jax && cd tipr_jax
      curl -LsSf https://astral.sh/uv/install.sh | sh
      ~/.local/bin/uv venv --quiet --clear --python 3.12 .venv
      ~/.local/bin/uv pip install --quiet --python .venv/bin/python -e ".[tpu,data]" gcsfs
      .venv/bin/python -c "import jax; assert jax.default_backend() == \"tpu\", jax.default_backend()"
      echo "$(hostname): ready"
    '
    ;;
  run)
    # The same command on every host; they find each other. It goes on without this terminal, and
    # started again (after a preemption: create, install, run) it continues from the bucket.
    need_bucket
    options=$(printf ' %q' "$@")
    on_all_hosts "
      cd tipr_jax
      nohup .venv/bin/python -m tipr_jax.main --workdir=$BUCKET/runs/tpu $options > train.log 2>&1 < /dev/null &
    "
    echo "training into $BUCKET/runs/tpu; scripts/tpu_vm.sh status shows the log"
    ;;
  status)
    gcloud compute tpus queued-resources describe "$NAME" "${place[@]}" --format='value(state.state)'
    gcloud compute tpus tpu-vm ssh "$NAME" "${place[@]}" --worker=0 \
      --command='pgrep -fc tipr_jax.main || echo "no training runs"; tail -n 20 tipr_jax/train.log'
    ;;
  fetch)
    need_bucket
    gcloud storage rsync --recursive "$BUCKET/runs/tpu" "${1:-runs/tpu}"
    ;;
  delete)
    gcloud compute tpus queued-resources delete "$NAME" "${place[@]}" --force --quiet
    ;;
  *)
    echo "error: no command $command; expected create, install, run, status, fetch or delete" >&2
    exit 2
    ;;
esac
