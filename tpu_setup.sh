#!/usr/bin/env bash
# Installs bertjax on a TPU VM and takes 20 training steps; with a verb, tpu_cloud.sh creates such
# machines, runs commands on them, and deletes them. Both run in the bash 3.2 of macOS.
set -euo pipefail

usage() {
  cat <<'END'
usage: ./tpu_setup.sh [--dry-run] [--any-device] [--install]
       ./tpu_setup.sh VERB [flags] [-- COMMAND]

Without a verb, run it in the directory of bertjax on a TPU VM with one host. It makes a virtual
environment, installs bertjax with its TPU support, prints the devices, and trains a small BERT for 20
steps on made-up text. A second run keeps the environment and trains in a new directory.

  --any-device   train on any device that JAX finds
  --install      check the devices by bertjax doctor instead of training; install Python if it is missing

With a verb, run it where gcloud is (a laptop, Cloud Shell). docs/tpu.md is a walk through all of them.

  create          ask Google Cloud for a TPU, after printing what it costs
  setup           wait for it; copy bertjax to all its hosts, install it, and check the devices
  run -- COMMAND  start COMMAND on all hosts, in a session that no closed connection ends
  babysit -- COMMAND   create, setup, run; again after a preemption; delete when COMMAND is done
  status          what exists, what it costs, and whether COMMAND runs
  logs            the last lines that COMMAND wrote (--follow: and the next ones; --worker N)
  profile DIR     copy the profile of the run in DIR, a gs:// path or a directory of host 0, to here
  delete          delete the TPU and all that create made

  --dry-run       print the commands without running them
  --type v5e:4x4  chip and topology, as bertjax plan takes it    [BERTJAX_TPU_TYPE]
  --zone ZONE     where                                          [BERTJAX_TPU_ZONE]
  --name NAME     what to call it (default: bertjax)             [BERTJAX_TPU_NAME]
  --rate DOLLARS  price of a chip for an hour, for create        [BERTJAX_TPU_RATE]
  --max-hours N   it deletes itself after N hours (default: 12)  [BERTJAX_TPU_MAX_HOURS]
  --spot          cheaper, and taken away at any time            [BERTJAX_TPU_SPOT=1]
  --restarts N    babysit gives up after N restarts (default: 20) [BERTJAX_TPU_RESTARTS]

environment without a verb:
  BERTJAX_PYTHON   the Python to use, 3.11 or newer (default: the newest found)
  BERTJAX_VENV     directory of the virtual environment (default: .venv-tpu)
  BERTJAX_WORKDIR  directory of the text and the run (default: runs/tpu_setup_DATE-TIME)
END
}

fail() {
  echo "tpu_setup.sh: $1" >&2
  exit "${2:-2}"
}

verb=''
case ${1:-} in
  create | setup | run | babysit | status | logs | profile | delete | host)
    verb=$1
    shift
    ;;
esac
dry_run=false any_device=false install=false follow=false worker=0 run_directory=''
type=${BERTJAX_TPU_TYPE:-} zone=${BERTJAX_TPU_ZONE:-} name=${BERTJAX_TPU_NAME:-bertjax} rate=${BERTJAX_TPU_RATE:-}
max_hours=${BERTJAX_TPU_MAX_HOURS:-12} spot=${BERTJAX_TPU_SPOT:-} restarts=${BERTJAX_TPU_RESTARTS:-20}
poll=${BERTJAX_TPU_POLL:-60} # seconds between two looks
while (($#)); do
  case ${verb:+verb}$1 in
    --dry-run | verb--dry-run) dry_run=true ;;
    --any-device) any_device=true ;;
    --install) install=true ;;
    --help | -h | verb--help | verb-h) usage && exit ;;
    verb--follow) follow=true ;;
    verb--spot) spot=1 ;;
    verb--) shift && break ;;
    verb--type | verb--zone | verb--name | verb--rate | verb--max-hours | verb--restarts | verb--worker)
      (($# > 1)) || fail "$1 needs a value: see --help."
      key=${1#--}
      printf -v "${key/-/_}" %s "$2"
      shift
      ;;
    verb[!-]*)
      [[ $verb == profile && -z $run_directory ]] || fail "unexpected $1: a command follows --, see --help."
      run_directory=$1
      ;;
    *) fail "unknown option $1: see --help." ;;
  esac
  shift
done

here=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
exec 3>&1 # commands are printed here, also those whose output is read

show() {
  local word line='+'
  for word in "$@"; do
    if [[ $word == *[!A-Za-z0-9_./:=,+-]* && $word != *\'* ]]; then
      line+=" '$word'"
    else
      line+=" $(printf '%q' "$word")"
    fi
  done
  printf '%s\n' "$line" >&3
}

# Prints a command as it can be typed; runs it unless this is a dry run.
run() {
  show "$@"
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

this_machine() {
  local python venv=${BERTJAX_VENV:-.venv-tpu} work=${BERTJAX_WORKDIR:-runs/tpu_setup_$(date +%Y%m%d-%H%M%S)}
  if $install && ! (find_python) >/dev/null 2>&1; then
    run sudo apt-get -q -o DPkg::Lock::Timeout=600 update
    run sudo apt-get -qy install python3.11 python3.11-venv || run sudo apt-get -qy install python3-venv
  fi
  python=$(find_python)
  if [[ ! -x $venv/bin/python ]]; then
    run "$python" -m venv "$venv"
  fi
  run "$venv/bin/python" -m pip install --disable-pip-version-check --editable '.[tpu]'
  if $install; then
    # A host whose TPU is missing must not pass as a healthy machine with a CPU.
    run env JAX_PLATFORMS=tpu,cpu "$venv/bin/bertjax" doctor --timeout 300
    return
  fi
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
}

# What the verbs below call on each host. ~/bertjax-session has a command, its log, pid and exit code.
on_host() {
  local session=~/bertjax-session state=none write='
import sys
from etils import epath
path = epath.Path(sys.argv[1]) / "tpu_setup"
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text("x")
path.unlink()'
  if [[ $1 == can-write ]]; then
    .venv-tpu/bin/python -c "$write" "$2" 2>&1 || echo refused
    return
  fi
  if [[ -s $session/code ]]; then
    state=$(cat "$session/code")
  elif [[ -e $session/pid ]]; then
    state=lost
    if kill -0 "$(cat "$session/pid")" 2>/dev/null; then state=running; fi
  fi
  echo "session: $state"
  if [[ $1 == look ]]; then return; fi
  if [[ $2 == "$(cat "$session/command" 2>/dev/null)" ]]; then echo same; fi
  if [[ $state == running ]]; then return; fi
  mkdir -p "$session"
  rm -f "$session/code"
  printf '%s\n' "$2" >"$session/command"
  # shellcheck disable=SC2016 # the inner shell expands it
  PATH=$PWD/.venv-tpu/bin:$PATH nohup bash -c 'echo $$ >"$0/pid.new" && mv "$0/pid.new" "$0/pid"
    bash "$0/command" >>"$0/log" 2>&1
    echo $? >"$0/code.new" && mv "$0/code.new" "$0/code"' "$session" </dev/null >/dev/null 2>&1 3>&- &
  until [[ $(cat "$session/pid" 2>/dev/null) == "$!" || -s $session/code ]]; do sleep 0.1; done
}

case $verb in
  '') this_machine ;;
  host) on_host "${@:-look}" ;;
  *) source ./tpu_cloud.sh ;;
esac
