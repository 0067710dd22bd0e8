#!/usr/bin/env bash
# Every benchmark on this machine, ours and the peers', then one report with plots.
#
# usage: benches/run_all.sh [OUT]      results go to OUT, by default bench-results
#
# QUEST_BENCH    an already built program (`quest` or `quest-bench`) instead of building one
# BACKENDS       backends of ours, by default `cuda vulkan` where there is an NVIDIA GPU, else flex
# ATTENTION      options of `bench attention`, by default those of the targets
# DECODE         options of `bench decode`; `none` leaves it out
# PREFILL        options of `bench prefill`; `none` leaves it out
# PEERS          options of the peers of attention and decode; `none` leaves all peers out
# PEERS_PREFILL  options of the peers of prompts
# PYTHON         the Python that has PyTorch, by default python3
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
refuse() {
  echo "error: expected --help or a folder for the results, found $*" >&2
  exit 2
}

case ${1:-} in
  -h | --help)
    # The comment at the top.
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit
    ;;
  --) shift ;;
  -*) refuse "$@" ;;
esac
[ $# -le 1 ] || refuse "$@"
out=${1:-bench-results}
mkdir -p -- "$out"
out=$(cd -- "$out" && pwd)
python=${PYTHON:-python3}

say() { echo "=== $*" >&2; }

if [ -z "${BACKENDS:-}" ]; then
  BACKENDS=flex
  if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then
    BACKENDS="cuda vulkan"
  fi
fi

if [ -z "${QUEST_BENCH:-}" ]; then
  features=$(echo "$BACKENDS" | tr ' ' ',')
  say "build with $features"
  (cd "$here/.." && cargo build --release -p quest-cli --features "$features")
  QUEST_BENCH=$(cd "$here/.." && cargo metadata --format-version 1 --no-deps |
    "$python" -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')/release/quest
fi

failed=()
# Runs a benchmark into a file; one that fails does not keep the others from running.
measure() {
  local file=$out/$1.jsonl
  shift
  say "$*"
  if ! "$@" >"$file"; then
    failed+=("$*")
    say "failed: $*"
  fi
}

ours() {
  local backend=$1
  shift
  case $(basename "$QUEST_BENCH") in
    quest-bench) BURN_DEVICE=$backend measure "$@" --json ;;
    *) measure "$@" --device "$backend" --json ;;
  esac
}

bench=()
[ "$(basename "$QUEST_BENCH")" = quest-bench ] || bench=(bench)
for backend in $BACKENDS; do
  # shellcheck disable=SC2086
  ours "$backend" "attention-$backend" "$QUEST_BENCH" "${bench[@]}" attention ${ATTENTION:---preset target --page-sizes 16 --digest mean-var}
  for model in decode prefill; do
    name=${model^^}
    options=${!name:-}
    # Pages as the peers have them.
    [ -n "$options" ] || options="--page-size 16"
    if [ "$options" != none ]; then
      # shellcheck disable=SC2086
      ours "$backend" "$model-$backend" "$QUEST_BENCH" "${bench[@]}" "$model" $options
    fi
  done
done

if [ "${PEERS:-}" != none ]; then
  if "$python" -c 'import torch' 2>/dev/null; then
    # shellcheck disable=SC2086
    measure peers-attention "$python" "$here/peers/attention_torch.py" ${PEERS:-}
    # shellcheck disable=SC2086
    measure peers-decode "$python" "$here/peers/decode_torch.py" ${PEERS:-}
    # shellcheck disable=SC2086
    measure peers-prefill "$python" "$here/peers/prefill_torch.py" ${PEERS_PREFILL:-}
  else
    say "peers are left out: $python has no PyTorch (PYTHON names another one)"
  fi
fi

say "report"
find "$out" -maxdepth 1 -name '*.jsonl' -empty -delete
"$python" "$here/report.py" --out "$out" "$out"/*.jsonl
if [ ${#failed[@]} -gt 0 ]; then
  printf 'failed: %s\n' "${failed[@]}" >&2
  exit 1
fi
