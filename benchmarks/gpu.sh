#!/bin/bash
# Measure training and decoding on one GPU, write OUT/gpu.json, and print its tables. At most ten minutes.
#   benchmarks/gpu.sh OUT [--trl FOLDER] [--tiny] [--device cpu]
# PYTHON names the interpreter, SHARED the fixtures, STAGES and WHO what to train, LIMIT the seconds of each part. Each part
# has its own limit, and each of its rows is written at once, so a part that fails or is too slow does not lose the others.
# `--tiny --device cpu` runs the same code at tiny shapes without a GPU.
set -u
OUT=${1:?usage: benchmarks/gpu.sh OUT [--trl FOLDER] [--tiny] [--device cpu]}
shift
PYTHON=${PYTHON:-python}
HERE=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
TRL=() TINY=() DEVICE=cuda
while [ $# -gt 0 ]; do
  case $1 in
    --trl) TRL=(--trl "$(cd "$2" && pwd)"); shift 2 ;;
    --tiny) TINY=(--tiny); shift ;;
    --device) DEVICE=$2; shift 2 ;;
    *) echo "unknown option $1" >&2; exit 2 ;;
  esac
done
SHARED=(--shared "${SHARED:-../shared}")
STEPS=10 SERVE=(--drawn --tokens 128 --repeats 2 --alone 1)
if [ ${#TINY[@]} -gt 0 ]; then STEPS=3 SERVE=(--tiny --drawn --tokens 4 --repeats 1 --alone 1); fi

part() {  # NAME SECONDS COMMAND...
  local name=$1 seconds=$2
  shift 2
  rm -f "$OUT/$name.json"
  echo "== $name (at most $seconds s)"
  timeout -k 10 "$seconds" "$@" "${SHARED[@]}" --device "$DEVICE" --json "$OUT/$name.json" 2>"$OUT/$name.err" \
    || { echo "$name: failed or stopped, code $?; the last lines of $OUT/$name.err:"; tail -n 3 "$OUT/$name.err"; }
}

cd "$HERE/.." || exit 1
# A compiled stage compiles for about a minute; QLoRA is not compiled, because its products are bitsandbytes' own.
declare -A LIMITS=([lora]=170 [qlora]=110 [full]=140 [stage1]=110)
declare -A IMPLEMENTATIONS=([lora]=compiled,plain,trl [qlora]=ours,plain,trl [full]=compiled,plain,trl [stage1]=compiled,plain,trl)
for stage in ${STAGES:-lora qlora full stage1}; do
  limit=${LIMIT:-${LIMITS[$stage]}}
  part "$stage" "$limit" "$PYTHON" benchmarks/train_gpu.py --stages "$stage" --steps "$STEPS" --limit $((limit - 20)) \
    --who "${WHO:-${IMPLEMENTATIONS[$stage]}}" ${TRL[@]+"${TRL[@]}"} ${TINY[@]+"${TINY[@]}"}
done
part decode "${LIMIT:-70}" "$PYTHON" benchmarks/serve.py "${SERVE[@]}" --pictures 0,16 --streams 1,16 --waits 0
"$PYTHON" - "$OUT" <<'PY'
import json, pathlib, sys
out = pathlib.Path(sys.argv[1])
parts = {path.stem: json.loads(path.read_text()) for path in sorted(out.glob("*.json")) if path.stem != "gpu"}
(out / "gpu.json").write_text(json.dumps(parts, indent=1) + "\n")
rows = ", ".join(name + " " + str(len(part["results"])) for name, part in parts.items())
print(f"{out / 'gpu.json'}: rows per part: {rows}")
PY
