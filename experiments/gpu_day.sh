#!/usr/bin/env bash
# What to find out first on a card, in one command, most worth first:
#
#     pip install '.[bench,cuda,test]'
#     experiments/gpu_day.sh [--minutes=60] [--out=experiments/results/gpu] [--dry-run]
#
# Tests that need a GPU; a step and inference beside PyTorch and MONAI; both beside the bounds of the card's rates; a
# step in variants. Each part begins if the minutes left are those that it may take, and is stopped when they are over;
# one that fails does not stop the next. Tables and logs go to --out. PYTHON is the interpreter, by default python.
# --dry-run tries it all on a CPU, in tiny sizes.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false # what runs beside one another shares the GPU
python=${PYTHON:-python} minutes=60 out=experiments/results/gpu dry_run=
for argument in "$@"; do
  case $argument in
    --minutes=[1-9]*) minutes=${argument#*=} ;;
    --out=?*) out=${argument#*=} ;;
    --dry-run) dry_run=1 ;;
    *)
      sed -n '2,11s/^# \{0,1\}//p' experiments/gpu_day.sh >&2
      exit 2
      ;;
  esac
done
size=(--size=128 --batch=2) inference=() bounds=()
export JAX_PLATFORMS=cuda,cpu
if [[ $dry_run ]]; then
  export JAX_PLATFORMS=cpu GPU_DRY_RUN=1
  out=$(mktemp -d)
  size=(--size=32 --batch=1 --rounds=1) inference=("--shape=48,48,40" --window=32 --repeats=1) bounds=(--device=h100)
fi
mkdir -p "$out"
budget=$((60 * minutes)) planned=0 states=() failed=0

parts() { # calls $1 with NAME MINUTES COMMAND... of each part; the minutes are guesses, for an H100
  local step=("$python" experiments/benchmark_step.py "${size[@]}")
  "$1" tests 3 "$python" -m pytest -n 0 -p no:cacheprovider -rs tests/gpu
  "$1" step 3 "${step[@]}" --nocompile --out="$out/benchmark_step"
  "$1" inference 3 "$python" experiments/benchmark_inference.py "${inference[@]}" --out="$out"
  "$1" compiled 8 "${step[@]}" --monai --out="$out/benchmark_step_compiled"
  "$1" bounds 1 "$python" experiments/gpu_bounds.py "${bounds[@]}" --out="$out" --measured="$out/benchmark_step.json"
  "$1" variants 15 "$python" experiments/gpu_variants.py "${size[@]}" --out="$out"
}

# shellcheck disable=SC2329 # parts calls it
tell() {
  if ((planned + $2 <= minutes)); then
    planned=$((planned + $2))
    echo "  $1: about $2 min"
  else
    echo "  $1: about $2 min, if the others take less"
  fi
}

# shellcheck disable=SC2329 # parts calls it
run() {
  local name=$1 needed=$2 left=$((budget - SECONDS)) began=$SECONDS state="done"
  shift 2
  if ((left < 60 * needed)); then
    state="left out, $((left / 60)) min left of the $needed it may take"
  else
    echo "== $name: $*"
    timeout --kill-after=15 "$left" "$@" 2>&1 | tee "$out/$name.txt" || state="FAILED, see $out/$name.txt"
  fi
  [[ $state != FAILED* ]] || failed=1
  states+=("| $name | $state | $((SECONDS - began)) |")
}

"$python" -c 'import jax; print(*jax.devices())' || {
  echo "No GPU that JAX can use: see above. --dry-run tries everything on a CPU." >&2
  exit 1
}
echo "At most $minutes minutes, results in $out:"
parts tell
parts run
printf '%s\n' "" "| part | | seconds |" "|---|---|---:|" "${states[@]}" | tee "$out/gpu_day.md"
exit "$failed"
