#!/usr/bin/env bash
# One real run on a GPU: a 7B model with random weights, served by transformers, under all three scenarios.
# Needs no network and no root. See docs/gpu-run.md.
#
#   PYTHON          the interpreter with torch and transformers, which serves        (default: python3)
#   HARNESS_PYTHON  the one that runs the harness                                    (default: PYTHON)
#   PYTHONPATH      where unpacked wheels lie that these do not have
#   STACK           a stack of the catalog            (default: transformers-7b-h100 or -h200, by the GPU found)
#   CATALOG         a YAML file with more stacks
#   RUN_TIME        seconds of load per scenario, warm-up included                   (default: 90)
#   USERS           users, instead of each scenario's
#   OUTPUT_TOKENS   length of the answers, instead of each scenario's
#   RUN_DIR, PAGE   where the runs and the table go              (default: runs/gpu-TIME, docs/gpu-run.md)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

{ # read whole before any of it runs: a script that is edited while it runs would go on in the middle of a line
die() { printf 'gpu_run: %s\n' "$*" >&2; exit 3; }

python=$(command -v "${PYTHON:-python3}") || die "there is no ${PYTHON:-python3} here: name an interpreter in PYTHON"
harness_python=$(command -v "${HARNESS_PYTHON:-$python}") || die "there is no $HARNESS_PYTHON here"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

missing() { # interpreter, modules: those that it cannot import
    "$1" - "${@:2}" <<'PYTHON'
import importlib.util, sys
print(" ".join(name for name in sys.argv[1:] if importlib.util.find_spec(name) is None))
PYTHON
}
lacks=$(missing "$python" torch transformers safetensors tokenizers fastapi uvicorn openai pydantic rich)
[ -z "$lacks" ] || die "$python has no $lacks: add the folder of their unpacked wheels to PYTHONPATH"
lacks=$(missing "$harness_python" gevent locust msgspec pyarrow pydantic typer yaml psutil pynvml altair)
[ -z "$lacks" ] || die "$harness_python has no $lacks, which the harness needs: see requirements/harness.txt"

if [ -z "${STACK:-}" ]; then
    gpu=$("$python" -c 'import torch; print(torch.cuda.get_device_name())' 2>/dev/null) || gpu=
    case $gpu in
        *H200*) STACK=transformers-7b-h200 ;;
        *H100*) STACK=transformers-7b-h100 ;;
        *) die "the GPU here is '${gpu:-none}': the catalog has such a stack for H100 and H200; name one in STACK" ;;
    esac
fi

run_dir=$(realpath -m "${RUN_DIR:-runs/gpu-$(date -u +%Y%m%d-%H%M%S)}")
page=${PAGE:-docs/gpu-run.md}
# Stacks of this run say `executable: python3`: whatever PYTHON is called, this is what they find.
mkdir -p "$run_dir/bin"
printf '#!/bin/sh\nexec "%s" "$@"\n' "$python" > "$run_dir/bin/python3"
chmod +x "$run_dir/bin/python3"
command=(harness run --stack "$STACK" --real --run-time "${RUN_TIME:-90}" --run-dir "$run_dir")
[ -z "${USERS:-}" ] || command+=(--users "$USERS")
[ -z "${OUTPUT_TOKENS:-}" ] || command+=(--output-tokens "$OUTPUT_TOKENS")
[ -z "${CATALOG:-}" ] || command+=(--catalog "$CATALOG")

began=$SECONDS
code=0
PATH="$run_dir/bin:$PATH" "$harness_python" -m harness.cli "${command[@]:1}" || code=$?
# 97, 98 and 99 are verdicts of a run that went well.
case $code in 0|97|98|99) ;; *) die "the run ended with exit code $code; logs are in $run_dir" ;; esac

"$harness_python" scripts/gpu_page.py "$run_dir" "$page" "${command[*]}" "$((SECONDS - began))"
printf 'reports:\n'
find "$run_dir" -name report.html | sort | sed 's/^/  /'
printf 'the table is in %s\n' "$page"
exit 0
}
