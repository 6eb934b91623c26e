#!/bin/bash
# Measure training and decoding on one GPU, write OUT/gpu.json, and print its tables. About ten minutes on an H200.
#   benchmarks/gpu.sh OUT [--trl FOLDER] [--tiny] [--device cpu]
# PYTHON names the interpreter, STAGES and WHO what to train, LIMIT the seconds of a part. Each part has its own limit, and
# each of its rows is written at once, so a part that fails or is too slow does not lose the others. `--tiny --device cpu` runs the same code at tiny shapes without a GPU.
set -u
OUT=${1:?usage: benchmarks/gpu.sh OUT [--trl FOLDER] [--tiny] [--device cpu]}
shift
PYTHON=${PYTHON:-python}
HERE=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$OUT"
TRL=() TINY=() DEVICE=cuda
while [ $# -gt 0 ]; do
  case $1 in
    --trl) TRL=(--trl "$2"); shift 2 ;;
    --tiny) TINY=(--tiny); shift ;;
    --device) DEVICE=$2; shift 2 ;;
    *) echo "unknown option $1" >&2; exit 2 ;;
  esac
done
STEPS=10 SERVE=(--drawn --tokens 128 --repeats 2 --alone 1)
if [ ${#TINY[@]} -gt 0 ]; then STEPS=3 SERVE=(--tiny --drawn --tokens 4 --repeats 1 --alone 1); fi

part() {  # NAME SECONDS COMMAND...
  local name=$1 seconds=$2
  shift 2
  echo "== $name (at most $seconds s)"
  timeout -k 10 "$seconds" "$@" --device "$DEVICE" --json "$OUT/$name.json" 2>"$OUT/$name.err" \
    || { echo "$name: failed or stopped, code $?; the last lines of $OUT/$name.err:"; tail -n 3 "$OUT/$name.err"; }
}

cd "$HERE/.." || exit 1
for stage in ${STAGES:-qlora lora full stage1}; do
  limit=${LIMIT:-130}
  part "$stage" $((limit + 20)) "$PYTHON" benchmarks/train_gpu.py --stages "$stage" --steps "$STEPS" --limit "$limit" \
    --who "${WHO:-ours,plain,trl,compiled}" ${TRL[@]+"${TRL[@]}"} ${TINY[@]+"${TINY[@]}"}
done
part decode "${LIMIT:-90}" "$PYTHON" benchmarks/serve.py "${SERVE[@]}" --pictures 0,16 --streams 1,16 --waits 0
"$PYTHON" - "$OUT" <<'PY'
import json, pathlib, sys
out = pathlib.Path(sys.argv[1])
parts = {path.stem: json.loads(path.read_text()) for path in sorted(out.glob("*.json")) if path.stem != "gpu"}
(out / "gpu.json").write_text(json.dumps(parts, indent=1) + "\n")
rows = ", ".join(name + " " + str(len(part["results"])) for name, part in parts.items())
print(f"{out / 'gpu.json'}: rows per part: {rows}")
PY
