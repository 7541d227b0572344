#!/usr/bin/env bash
# benchmarks/gpu.sh WHEELS OUT [--dry-run]
#
# The tests that need a GPU and the benchmarks that matter there, in under nine minutes, without a network.
#
# It runs in any python3 (or $PYTHON) that has torch, transformers and triton. WHEELS is a folder with wheels of whatever
# else of these that Python lacks: pydantic (with pydantic_core, annotated_types, typing_inspection, typing_extensions),
# sentencex, tokenizers, safetensors, soundfile (with cffi), tqdm, numpy, pytest (with pluggy, iniconfig, packaging,
# pygments), torchao for the quantised rows, and nvidia-ml-py for the GPU's busy share. Ray, chatterbox-tts and perth are
# not needed: there is no watermark here and no reference beside.
#
# OUT gets gpu.json, with everything measured, and gpu.log; both are there after every step. The last line of stdout is
# JSON. --dry-run does the same with the demo model, in a minute on a CPU.
set -euo pipefail

if [[ $# -lt 2 ]]; then
  sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d' >&2
  exit 2
fi
wheels=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
dry=${3:-}
python=${PYTHON:-python3}
cd "$(dirname "${BASH_SOURCE[0]}")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for wheel in "$wheels"/*.whl; do
  [[ -e $wheel ]] && "$python" -m zipfile -e "$wheel" "$work/site"
done
export PYTHONPATH="$work/site:$PWD${PYTHONPATH:+:$PYTHONPATH}" TQDM_DISABLE=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

all_s=530 patience=1
model=dummy:chatterbox device=cuda
t3=(--streams 1,16,64 --tokens 32 --positions 300 --repeats 5 --first-repeats 3)
syncs=(--tokens 50 --positions 300)
s3gen=(--seconds 5,10 --batch 1,8 --repeats 3)
e2e=(--repeats 5)
listeners=(--listeners 1,32,80 --seconds 12)
approximate=(--switch s3gen.flow_attention=chunked --switch s3gen.context_window=50 --switch s3gen.max_batch=32
             --switch t3.max_positions=512) # what 200 streams keep fits into 140 GB
chunked=(--listeners 80,200 --seconds 12)
offline=(--streams 64 --repeats 2)
if [[ $dry == --dry-run ]]; then
  model=demo device=cpu all_s=2900 patience=5 # whatever the CPU
  t3=(--streams 1,2 --tokens 8 --positions 120 --repeats 1 --first-repeats 1)
  syncs=(--tokens 8 --positions 120)
  s3gen=(--seconds 1 --batch 1,2 --repeats 1)
  e2e=(--tokens 15 --repeats 1)
  listeners=(--listeners 1 --tokens 15 --seconds 1)
  chunked=("${listeners[@]}")
  offline=(--streams 2 --tokens 15 --repeats 1)
fi

# step NAME LIMIT COMMAND...: a failure is kept, and the next step runs.
step() {
  local name=$1 limit=$(($2 * patience)) status=0 begin=$SECONDS
  shift 2
  if ((limit > all_s - SECONDS)); then limit=$((all_s - SECONDS)); fi
  mkdir -p "$work/$name"
  if ((limit > 0)); then
    timeout "$limit" "$@" >"$work/$name/log" 2>&1 || status=$?
  else
    echo "no time was left" >"$work/$name/log"
    status=124
  fi
  printf '%s\t%s\t%s\t%s\n' "$name" "$status" "$((SECONDS - begin))" "$limit" >>"$work/steps.tsv"
  "$python" benchmarks/collect.py "$work" "$out" >"$work/last"
  echo "$name: status $status after $((SECONDS - begin)) s" >&2
}

# bench STEP LIMIT COMMAND OPTIONS...
bench() {
  local name=$1 limit=$2 command=$3
  shift 3
  step "$name" "$limit" "$python" -m benchmarks "$command" --model "$model" --device "$device" --output "$work/$name" "$@"
}

mapfile -t tests < <(grep -rl --include='test_*.py' 'mark\.gpu' tests)
step tests 120 "$python" -m pytest -q --noconftest -p no:cacheprovider -m gpu "${tests[@]}"
bench bandwidth 20 bandwidth
bench t3 70 t3 --no-reference "${t3[@]}"
bench syncs 30 syncs "${syncs[@]}"
bench s3gen 50 s3gen --no-reference "${s3gen[@]}"
bench e2e 40 e2e --switch watermark=false "${e2e[@]}"
bench listeners 80 listeners --switch watermark=false "${listeners[@]}"
bench chunked 70 listeners --switch watermark=false "${approximate[@]}" "${chunked[@]}"
bench offline 40 e2e --profile throughput --switch warmup=first --switch watermark=false "${offline[@]}"
bench low-vram 30 e2e --profile low-vram --switch watermark=false "${e2e[@]}"
bench t3-int8 30 t3 --no-reference --switch t3.quantization=int8 "${t3[@]}"
bench t3-plain 30 t3 --no-reference --switch t3.gpu_kernels=plain "${t3[@]}"
bench s3gen-eager 30 s3gen --no-reference --switch s3gen.cuda_graphs=false "${s3gen[@]}"

cat "$work/last"
awk -F '\t' '$2 != 0 {failed = 1} END {exit failed}' "$work/steps.tsv"
