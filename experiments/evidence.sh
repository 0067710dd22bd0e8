#!/usr/bin/env bash
# The tables of docs/accuracy.md: kinds of digests, their storage, group rules and budgets beside the oracle, and all
# policies at equal budgets. Every run keeps its rows as soon as they are there: the same command goes on from a run
# that was cut. The tables and OUT/evidence.jsonl have every row, those of runs that were cut as well.
#
# usage: experiments/evidence.sh --text FILE | --ids FILE [--model MODEL] [--device D] [--quest PATH] [--out DIR] [--jobs N]
#                                [--only TABLE,..] [--minutes M] [--quick] [-- OPTION..]
#   --text    prose of at least 3072 tokens, which is scored and watched
#   --ids     its token ids as JSON, instead; nothing is watched then, so the table of recall is left out
#   --model   the model that scores it, a folder, a GGUF file or a name on the hub [default: the one that ships]
#   --device  where it runs [default: auto]; needles are found by the model that ships
#   --quest   the program [default: quest]
#   --out     folder of journals, results and plots [default: evidence]
#   --jobs    runs at a time [default: 4]
#   --only    some of: needles, perplexity, recall, dense-layers (together: digests), policies [default: all]
#   --minutes stop after so long; what was cut goes on with the next call
#   --quick   the smallest part of everything, to see that it runs
#   --        what follows goes to each command that scores the text, such as `--dtype f32 --weights full`
set -euo pipefail

model=() device=auto quest=quest out=evidence jobs=4 only= minutes= quick= text= ids=
while [ $# -gt 0 ]; do
  case $1 in
    --quick) quick=1; shift; continue ;;
    --) shift; break ;;
    --text | --ids | --model | --device | --quest | --out | --jobs | --only | --minutes)
      [ $# -ge 2 ] || { echo "$1: expected a value" >&2; exit 2; } ;;
    *) echo "expected an option that the head of this script names, found $1" >&2; exit 2 ;;
  esac
  case $1 in
    --text) text=$2 ;;
    --ids) ids=$2 ;;
    --model) model=(--model "$2") ;;
    --device) device=$2 ;;
    --quest) quest=$2 ;;
    --out) out=$2 ;;
    --jobs) jobs=$2 ;;
    --only) only=$2 ;;
    --minutes) minutes=$2 ;;
  esac
  shift 2
done
[ -r "${text:-$ids}" ] || { echo "--text or --ids: expected a file, found '${text:-$ids}'" >&2; exit 2; }
[[ $minutes =~ ^[0-9]*$ ]] || { echo "--minutes: expected a whole number, found '$minutes'" >&2; exit 2; }
mkdir -p "$out"

digests=needles,perplexity,recall,dense-layers
for table in ${only//,/ }; do
  case ,$digests,digests,policies, in
    *,"$table",*) ;;
    *) echo "--only: expected some of $digests,digests,policies, found '$table'" >&2; exit 2 ;;
  esac
done
[ -n "$only" ] || only=digests,policies
only=,${only/digests/$digests},
# wants TABLE
wants() { case $only in *",$1,"*) return 0 ;; *) return 1 ;; esac; }

# How much of everything.
length=3072 prefill=2048 answer=2560 prompt=512 watched=128 budgets=128,256,512 depths=10 trials=2 needles=4096,16384
if [ -n "$quick" ]; then
  length=640 prefill=512 answer=640 prompt=512 watched=8 budgets=128 depths=2 trials=1 needles=1024
fi

list=$out/jobs.txt
: >"$list"
# job NAME COMMAND ARGUMENTS: a line of the list, each word quoted.
job() { printf '%q ' "$@" >>"$list"; echo >>"$list"; }

prose=("${model[@]}" --device "$device" "$@")
if [ -n "$text" ]; then prose+=(--text "$text"); else prose+=(--ids "$ids"); fi
# What decides most comes first, so that a call of a few minutes gives it.
for table in needles perplexity recall; do
  wants $table || continue
  [ "$table$text" != recall ] || continue
  # Kind, storage, tokens of a page.
  for made in mean-var:full:16 mean-scalar:full:8 min-max:full:16 mean-scalar:full:16 mean:full:16 mean-var:int8:16 \
    mean-scalar:int8:8 min-max:int8:16 mean-scalar:int8:16 mean:int8:16; do
    IFS=: read -r digest storage page_size <<<"$made"
    kind=(--digest "$digest" --digest-storage "$storage" --page-size "$page_size")
    name=$digest-$storage-$page_size
    # A sum over a group ranks pages as the mean does.
    rules=quest:group=max,quest:group=mean factors=
    # The oracle knows no digests, and the factor is that of two kinds.
    case $made in
      min-max:full:16) rules=dense,$rules,oracle:group=max,oracle:group=mean ;;
      mean-var:full:16 | mean-scalar:full:*) factors=quest:c=0.5,quest:c=1,quest:c=1.5,quest:c=2,quest:c=3 ;;
    esac
    for policies in $rules $factors; do
      job_name=$table-$name
      [ "$policies" = "$rules" ] || job_name+=-factors
      case $table in
        needles)
          job "$job_name" passkey --device "$device" --keys 4 --lengths $needles --budgets 1/16,1/32,1/64 \
            --depths $depths --trials $trials "${kind[@]}" --policies "$policies" ;;
        perplexity)
          job "$job_name" perplexity "${prose[@]}" "${kind[@]}" --length $length --prefill $prefill \
            --budgets $budgets --policies "$policies" ;;
        recall)
          job "$job_name" recall "${prose[@]}" "${kind[@]}" --length $length --steps $watched --budgets $budgets \
            --policies "${policies#dense,}" ;;
      esac
    done
  done
done
if wants dense-layers; then
  for dense in 0 1 2; do
    job dense-layers-$dense perplexity "${prose[@]}" --length $length --prefill $prefill --budgets $budgets \
      --dense-layers $dense --policies quest,oracle
  done
fi
if wants policies; then
  # A short prompt and a long answer; a run each, as their times differ much.
  for policy in dense quest oracle streaming h2o tova top-p reuse raas:prompt=competes raas:prompt=quest chess recent \
    random:prompt=competes chess:reselect=uncertain; do
    job policy-${policy%%=*}-${policy##*=} perplexity "${prose[@]}" --length $answer --prefill $prompt \
      --budgets $budgets --policies $policy
  done
fi

# Rows of a run that was cut are in its journal; a run that ended has its results.
run() {
  name=$1
  shift
  [ -s "$OUT/$name.json" ] && return
  left=$((UNTIL - $(date +%s)))
  [ $left -gt 0 ] || return 1
  if timeout $left "$QUEST" "$@" --json --resume "$OUT/$name.journal" >"$OUT/$name.part" 2>"$OUT/$name.log"; then
    mv "$OUT/$name.part" "$OUT/$name.json"
    echo "$name" >&2
  else
    [ "$(date +%s)" -lt "$UNTIL" ] || return 1
    echo "$name failed: $(tail -n 1 "$OUT/$name.log")" >&2
    return 1
  fi
}
export -f run
UNTIL=$(($(date +%s) + 60 * ${minutes:-100000}))
export OUT=$out QUEST=$quest UNTIL
failed=0
tr '\n' '\0' <"$list" | xargs -0 -P "$jobs" -I{} bash -c 'run {}' || failed=1

[ "$(date +%s)" -lt "$UNTIL" ] || echo "the time is over; the same command goes on" >&2
python3 "$(dirname "$0")/evidence.py" "$out"
exit $failed
