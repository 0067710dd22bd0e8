#!/usr/bin/env bash
# The tables of docs/accuracy.md: kinds of digests, their storage, group rules and budgets beside the oracle, and all
# policies at equal budgets. Every run keeps its rows as soon as they are there: the same command goes on from a run
# that was cut, and OUT/evidence.jsonl has every result of every run, a line each.
#
# usage: experiments/evidence.sh --text FILE [--model MODEL] [--device D] [--quest PATH] [--out DIR] [--jobs N]
#                                [--only digests|policies] [--quick]
#   --text    prose of at least 3072 tokens, which is scored and watched
#   --model   the model that scores it, a folder, a GGUF file or a name on the hub [default: the one that ships]
#   --device  where it runs [default: auto]; needles are found by the model that ships
#   --quest   the program [default: quest]
#   --out     folder of journals, results and plots [default: evidence]
#   --jobs    runs at a time [default: 4]
#   --quick   the smallest part of everything, to see that it runs
set -euo pipefail

model=() device=auto quest=quest out=evidence jobs=4 only= quick= text=
while [ $# -gt 0 ]; do
  case $1 in
    --quick) quick=1; shift; continue ;;
    --text | --model | --device | --quest | --out | --jobs | --only)
      [ $# -ge 2 ] || { echo "$1: expected a value" >&2; exit 2; } ;;
    *) echo "expected an option that the head of this script names, found $1" >&2; exit 2 ;;
  esac
  case $1 in
    --text) text=$2 ;;
    --model) model=(--model "$2") ;;
    --device) device=$2 ;;
    --quest) quest=$2 ;;
    --out) out=$2 ;;
    --jobs) jobs=$2 ;;
    --only) only=$2 ;;
  esac
  shift 2
done
[ -r "$text" ] || { echo "--text: expected a file of prose, found '$text'" >&2; exit 2; }
mkdir -p "$out"

# How much of everything.
length=3072 prefill=2048 answer=2560 prompt=512 watched=128 budgets=256,512 depths=10 trials=2 needles=4096,16384
if [ -n "$quick" ]; then
  length=640 prefill=512 answer=640 prompt=512 watched=8 budgets=128 depths=2 trials=1 needles=1024
fi

list=$out/jobs.txt
: >"$list"
# job NAME COMMAND ARGUMENTS: a line of the list, each word quoted.
job() { printf '%q ' "$@" >>"$list"; echo >>"$list"; }

prose=("${model[@]}" --device "$device" --text "$text")
if [ "$only" != policies ]; then
  for digest in min-max mean-var mean-scalar mean; do
    for storage in full int8; do
      kind=(--digest $digest --digest-storage $storage)
      name=$digest-$storage
      rules=quest:group=max,quest:group=mean
      # The oracle knows no digests, and the factor is that of two kinds.
      case $name in
        min-max-full) rules=dense,$rules,oracle:group=max,oracle:group=mean ;;
        mean-var-full | mean-scalar-full) rules=$rules,quest:c=0.5,quest:c=1,quest:c=1.5,quest:c=2,quest:c=3 ;;
      esac
      job perplexity-$name perplexity "${prose[@]}" "${kind[@]}" --length $length --prefill $prefill \
        --budgets $budgets --policies $rules
      job recall-$name recall "${prose[@]}" "${kind[@]}" --length $length --steps $watched --budgets $budgets \
        --policies "${rules#dense,}"
      job needles-$name passkey --device "$device" --keys 4 --lengths $needles --budgets 1/16,1/32,1/64 --depths $depths \
        --trials $trials "${kind[@]}" --policies "$rules"
    done
  done
  for dense in 0 1 2; do
    job dense-layers-$dense perplexity "${prose[@]}" --length $length --prefill $prefill --budgets $budgets \
      --dense-layers $dense --policies quest,oracle
  done
fi
if [ "$only" != digests ]; then
  # A short prompt and a long answer; a run each, as their times differ much.
  for policy in dense quest oracle streaming h2o tova top-p reuse raas:prompt=competes raas:prompt=quest chess recent \
    random:prompt=competes; do
    job policy-${policy%%=*}-${policy##*=} perplexity "${prose[@]}" --length $answer --prefill $prompt \
      --budgets $budgets --policies $policy
  done
fi

# Rows of a run that was cut are in its journal; a run that ended has its results.
run() {
  name=$1
  shift
  [ -s "$OUT/$name.json" ] && return
  if "$QUEST" "$@" --json --resume "$OUT/$name.journal" >"$OUT/$name.part" 2>"$OUT/$name.log"; then
    mv "$OUT/$name.part" "$OUT/$name.json"
    echo "$name" >&2
  else
    echo "$name failed: $(tail -n 1 "$OUT/$name.log")" >&2
    return 1
  fi
}
export -f run
export OUT=$out QUEST=$quest
failed=0
tr '\n' '\0' <"$list" | xargs -0 -P "$jobs" -I{} bash -c 'run {}' || failed=1

cat "$out"/*.json >"$out/evidence.jsonl"
python3 "$(dirname "$0")/evidence.py" "$out"
exit $failed
