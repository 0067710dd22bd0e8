#!/usr/bin/env bash
# Seconds that whole runs of `quest` take in new processes: the first ever run of a user, and later ones.
#
# usage: benches/start_up.sh [OUT]      a line of JSON per run, also in OUT where it is given
#
# QUEST       an already built program instead of building one
# BACKENDS    devices, by default `cuda vulkan`
# MODEL       a checkpoint for `generate` and `perplexity`, by default the model that ships
# RUNS        runs with a full cache, by default 2
#
# Each backend begins with an empty home folder, so that neither the cache of compiled kernels nor the
# driver's own caches hold anything. A run that fails is a line with its exit code. After the timed
# runs come those in which the cache is shared, cut in half or cannot be written; all of them must
# give the ids of the first run.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
case ${1:-} in
  -h | --help)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit
    ;;
  -*)
    echo "error: expected --help or a file for the results, found $1" >&2
    exit 2
    ;;
esac
out=${1:-/dev/null}
: >"$out"
BACKENDS=${BACKENDS:-cuda vulkan}
RUNS=${RUNS:-2}
if [ -z "${QUEST:-}" ]; then
  (cd "$here/.." && cargo build --release -p quest-cli --features "${BACKENDS// /,}")
  QUEST=${CARGO_TARGET_DIR:-$here/../target}/release/quest
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
model=()
[ -z "${MODEL:-}" ] || model=(--model "$MODEL")
ids() {
  local all=() i
  for ((i = 0; i < $1; i++)); do all+=($((i % 250 + 2))); done
  local IFS=,
  echo "[${all[*]}]"
}
ids 400 >"$work/prompt.json"
ids 450 >"$work/scored.json"

# An empty home of its own for each backend.
clean() {
  rm -rf "$work/home"
  mkdir -p "$work/home"
  export HOME=$work/home XDG_CACHE_HOME=$work/home/.cache CUDA_CACHE_PATH=$work/home/.nv
  unset QUEST_KERNEL_CACHE
}

# Runs a command; prints a line of JSON. The answer's ids are kept for comparisons.
timed() {
  local backend=$1 what=$2 state=$3 begin end code=0
  shift 3
  begin=${EPOCHREALTIME/[.,]/}
  "$QUEST" "$@" --device "$backend" >"$work/stdout" 2>"$work/stderr" || code=$?
  end=${EPOCHREALTIME/[.,]/}
  local kernels
  kernels=$(sed -n 's/^kernels: //p' "$work/stderr" | head -1)
  printf '{"backend": "%s", "command": "%s", "cache": "%s", "seconds": %d.%02d, "exit": %d, "kernels": "%s"}\n' \
    "$backend" "$what" "$state" $(((end - begin) / 1000000)) $(((end - begin) / 10000 % 100)) "$code" "${kernels:-none compiled}" | tee -a "$out"
  [ "$code" = 0 ] || tail -3 "$work/stderr" >&2
}

generate=(generate "${model[@]}" --ids "$work/prompt.json" --max-new-tokens 8 --ignore-eos --json)
perplexity=(perplexity "${model[@]}" --ids "$work/scored.json" --prefill 200 --json)

answer() { sed -n 's/.*"ids": *\(\[[^]]*\]\).*/\1/p' <<<"$(tr -d '\n' <"$work/stdout")"; }

same() {
  [ "$(answer)" = "$first" ] || {
    echo "error: $1: expected ids $first, found $(answer)" >&2
    exit 1
  }
}

for backend in $BACKENDS; do
  for what in generate perplexity demo; do
    clean
    case $what in
      generate) command=("${generate[@]}") ;;
      perplexity) command=("${perplexity[@]}") ;;
      demo) command=(demo) ;;
    esac
    timed "$backend" $what empty "${command[@]}"
    [ $what != generate ] || first=$(answer)
    for _ in $(seq "$RUNS"); do
      timed "$backend" $what full "${command[@]}"
    done
  done

  clean
  timed "$backend" generate "two at once, first" "${generate[@]}" >"$work/one" &
  (
    work=$work/second
    mkdir -p "$work"
    timed "$backend" generate "two at once, second" "${generate[@]}"
  )
  wait
  cat "$work/one"
  timed "$backend" generate "after two at once" "${generate[@]}"
  same "after two at once"
  for file in "$work"/home/.cache/quest-burn/kernels/*.db; do
    truncate -s $(($(stat -c %s "$file") / 2)) "$file"
  done
  timed "$backend" generate "cut in half" "${generate[@]}"
  same "cut in half"
  grep '^kernel cache:' "$work/stderr" >&2 || true
  timed "$backend" generate "after it was cut" "${generate[@]}"
  same "after it was cut"
  QUEST_KERNEL_CACHE=off timed "$backend" generate "turned off" "${generate[@]}"
  same "turned off"
  HOME=/proc/nowhere XDG_CACHE_HOME=/proc/nowhere timed "$backend" generate "home cannot be written" "${generate[@]}"
  same "home cannot be written"
done
