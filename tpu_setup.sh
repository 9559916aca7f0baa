#!/usr/bin/env bash
# Installs bertjax on a TPU VM and takes 20 training steps; see usage below.
set -euo pipefail

usage() {
  cat <<'END'
usage: ./tpu_setup.sh [--dry-run] [--any-device] [--help]

Run it in the directory of bertjax on a TPU VM with one host. It makes a virtual environment, installs
bertjax with its TPU support, prints the devices, and trains a small BERT for 20 steps on made-up text.
A second run keeps the environment and trains in a new directory.

  --dry-run      print the commands without running them
  --any-device   train on any device that JAX finds
  --help         print this

environment:
  BERTJAX_PYTHON   the Python to use, 3.11 or newer (default: the newest found)
  BERTJAX_VENV     directory of the virtual environment (default: .venv-tpu)
  BERTJAX_WORKDIR  directory of the text and the run (default: runs/tpu_setup_DATE-TIME)
END
}

fail() {
  echo "tpu_setup.sh: $1" >&2
  exit "${2:-2}"
}

dry_run=false
any_device=false
for argument in "$@"; do
  case $argument in
    --dry-run) dry_run=true ;;
    --any-device) any_device=true ;;
    --help | -h)
      usage
      exit 0
      ;;
    *) fail "unknown option $argument: see --help." ;;
  esac
done

# Prints a command as it can be typed; runs it unless this is a dry run.
run() {
  local word line='+'
  for word in "$@"; do
    if [[ $word == *[!A-Za-z0-9_./:=,+-]* && $word != *\'* ]]; then
      line+=" '$word'"
    else
      line+=" $(printf '%q' "$word")"
    fi
  done
  printf '%s\n' "$line"
  if ! $dry_run; then "$@"; fi
}

find_python() {
  local candidate candidates=(python3.13 python3.12 python3.11 python3)
  if [[ -n ${BERTJAX_PYTHON:-} ]]; then candidates=("$BERTJAX_PYTHON"); fi
  for candidate in "${candidates[@]}"; do
    if "$candidate" -c 'import sys, venv, ensurepip; assert sys.version_info >= (3, 11)' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  if [[ -n ${BERTJAX_PYTHON:-} ]]; then
    fail "BERTJAX_PYTHON=$BERTJAX_PYTHON is not Python 3.11 or newer with the venv module: name another."
  fi
  fail "no Python 3.11 or newer with the venv module was found: install one (sudo apt-get install python3.11 python3.11-venv), or name one by BERTJAX_PYTHON."
}

cd "$(dirname "${BASH_SOURCE[0]}")"
venv=${BERTJAX_VENV:-.venv-tpu}
work=${BERTJAX_WORKDIR:-runs/tpu_setup_$(date +%Y%m%d-%H%M%S)}
python=$(find_python)

# 400 documents of 12 sentences over 1,500 made-up words, the same every time.
make_text='
import pathlib, random, sys
choose = random.Random(0)
syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
words = ["".join(choose.choices(syllables, k=choose.randint(1, 4))) for _ in range(1500)]
documents = (
    "\n".join(" ".join(choose.choices(words, k=choose.randint(6, 14))) + "." for _ in range(12))
    for _ in range(400)
)
path = pathlib.Path(sys.argv[1])
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text("\n\n".join(documents) + "\n")
'

print_devices='
import jax, sys
print(f"jax {jax.__version__}: {jax.process_count()} process(es), {jax.device_count()} device(s)")
for device in jax.devices():
    print(f"  {device.id}: {device.device_kind}")
if jax.default_backend() != "tpu" and sys.argv[1] != "true":
    sys.exit("JAX finds no TPU: run this on a TPU VM whose TPU no other program holds, "
             "or use another device with --any-device.")
'

if [[ ! -x $venv/bin/python ]]; then
  run "$python" -m venv "$venv"
fi
run "$venv/bin/python" -m pip install --disable-pip-version-check --editable '.[tpu]'
run "$venv/bin/python" -c "$print_devices" "$any_device"
run "$venv/bin/python" -c "$make_text" "$work/text.txt"
run "$venv/bin/bertjax" tokenizer train --input "$work/text.txt" --vocab-size 500 --output "$work/tokenizer"
run "$venv/bin/bertjax" prepare --input "$work/text.txt" --tokenizer "$work/tokenizer" --output "$work/data"
run "$venv/bin/bertjax" pretrain --data "$work/data" --workdir "$work/run" --loop.train-steps 20 --loop.log-every 5 \
  --model.size tiny --batch-size 64 --execution.dtype bfloat16

if $dry_run; then
  echo "This was a dry run: nothing was changed."
else
  echo "bertjax trains on this machine. Next: $venv/bin/bertjax --help"
fi
