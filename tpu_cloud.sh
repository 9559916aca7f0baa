# shellcheck shell=bash disable=SC2154 # tpu_setup.sh sources this and sets the variables
# The verbs of tpu_setup.sh that use gcloud. Machines are a queued resource of the Cloud TPU API, or,
# for the chips that it does not get any more, a managed instance group of Compute Engine.

errors=$(mktemp "${TMPDIR:-/tmp}/tpu_setup.XXXXXX")
trap 'rm -f "$errors" "$errors.tgz"' EXIT

# gcloud for at most $1 seconds, as a call may hang; its complaints go to $errors. A signal ends the
# ssh below it too, which would keep a pipe open.
limited() {
  perl -e 'my $seconds = shift;
    my $job = fork;
    if (!$job) { setpgrp; exec @ARGV or exit 127 }
    $SIG{ALRM} = $SIG{INT} = $SIG{TERM} = sub { kill "-KILL", $job; exit 142 };
    alarm $seconds;
    waitpid $job, 0;
    exit($? & 127 ? 128 : $? >> 8)' "$1" gcloud "${@:2}" --quiet </dev/null 2>>"$errors"
}

# Runs gcloud for what it changes.
limit=1800 # seconds
cloud() {
  : >"$errors"
  show gcloud "$@"
  if ! $dry_run; then limited "$limit" "$@"; fi
}

# Runs gcloud for what it answers.
ask() {
  : >"$errors"
  if $dry_run; then show gcloud "$@"; else limited 120 "$@"; fi
}

missing() { grep -qiE 'not.?found' "$errors"; }

# Ends with what gcloud complained of, or with $2, and what to do about it.
explain() {
  local words=${2:-}
  [[ -n $words ]] || words=$(tr '\n' ' ' <"$errors" | sed -e 's/.*ERROR: ([^)]*) //' -e 's/  */ /g' -e 's/[. ]*$//' | cut -c1-400)
  case $words in
    *[Qq]uota*) fail "Google Cloud refuses the quota for $type in $zone: \"$words\": ask for $chips ${spot:+preemptible }chips of $chip in $zone at https://console.cloud.google.com/iam-admin/quotas, or take a smaller --type or another --zone." ;;
    *"auth login"* | *[Cc]redential* | *eauthenticat*) fail "gcloud is not logged in: run gcloud auth login (\"$words\")." ;;
    *) fail "$1: \"${words:-gcloud did not answer in time}\"." 1 ;;
  esac
}

number() { [[ $1 =~ ^[0-9]*\.?[0-9]+$ && $1 =~ [1-9] ]]; }

# Splits --type into what the two APIs of Google Cloud call it. v6e and TPU7x are Compute Engine's.
read_type() {
  local pattern='^(v2|v3|v4|v5e|v5p|v6e|tpu7x):([0-9]+)x([0-9]+)(x([0-9]+))?$'
  [[ $type =~ $pattern ]] || fail "the type of TPU is '$type': give --type CHIP:TOPOLOGY, such as v5e:4x4, v5p:2x2x2, v6e:4x4 or tpu7x:2x2x1."
  chip=${BASH_REMATCH[1]} topology=${type#*:}
  chips=$((BASH_REMATCH[2] * BASH_REMATCH[3] * ${BASH_REMATCH[5]:-1})) hosts=1 api=tpu
  case $chip in
    v5e) kind=v5litepod-$chips image=v2-alpha-tpuv5-lite ;;
    v5p) kind=v5p-$((2 * chips)) image=v2-alpha-tpuv5 ;; # these names count cores, two a chip
    v2 | v3 | v4) kind=$chip-$((2 * chips)) image=tpu-ubuntu2204-base ;;
    v6e)
      api=compute image=ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e kind=ct6e-standard-${chips}t
      if ((chips > 8)); then kind=ct6e-standard-4t hosts=$((chips / 4)); fi
      ;;
    tpu7x) api=compute image=ubuntu-accel-2404-amd64-tpu-tpu7x kind=tpu7x-standard-4t hosts=$((chips / 4)) ;;
  esac
  ((hosts > 0)) || fail "$type has $chips chips: a machine of $chip has 4."
}

check_settings() {
  read_type
  [[ -n $zone ]] || fail "in which zone? Give --zone, such as us-west4-a for v5e: https://cloud.google.com/tpu/docs/regions-zones lists them by chip."
  [[ $name =~ ^[a-z][-a-z0-9]{0,50}$ ]] || fail "the name is '$name': give --name in lower case letters, digits and hyphens."
  number "$max_hours" || fail "--max-hours is '$max_hours': give a number of hours above 0."
  [[ $restarts =~ ^[0-9]+$ ]] || fail "--restarts is '$restarts': give a whole number."
  [[ $worker =~ ^[0-9]+$ ]] || fail "--worker is '$worker': give the number of a host."
  seconds=$(awk "BEGIN {printf \"%d\", $max_hours * 3600}")
  project=${BERTJAX_TPU_PROJECT:-}
  if [[ -n $project ]]; then return; fi # a babysit has looked already
  if $dry_run; then project=PROJECT && return; fi
  command -v gcloud >/dev/null || fail "gcloud was not found: install the Google Cloud CLI, https://cloud.google.com/sdk/docs/install."
  [[ -n $(ask auth list --filter=status:ACTIVE --format='value(account)') ]] || fail "gcloud is not logged in: run gcloud auth login."
  project=$(ask config get-value project) || project=''
  [[ -n $project && $project != '(unset)' ]] || fail "gcloud has no project: run gcloud config set project PROJECT."
}

print_hourly() {
  [[ -n $rate ]] || fail "what does a chip cost? Give --rate DOLLARS for an hour of a chip of $chip, from https://cloud.google.com/tpu/pricing."
  number "$rate" || fail "--rate is '$rate': give dollars for an hour of one chip, such as 1.2."
  awk "BEGIN {printf \"$type in $zone${spot:+, spot}: $chips chips at %.2f dollars an hour, %.2f dollars an hour in all.\\n\", $rate, $chips * $rate}"
}

# absent, waiting, ready, gone (it exists, but never runs again) or unknown. A dry run takes $1.
state() {
  local found='' query=(queued-resources describe "$name" --format='value(state.state)') group=tpus
  if [[ $api == compute ]]; then
    query=(managed list-instances "$name" --format='value(instanceStatus,currentAction)') group=instance-groups
  fi
  if ! found=$(ask compute $group "${query[@]}" --zone="$zone"); then
    if missing; then echo absent; else echo unknown; fi
    return
  fi
  if [[ $api == compute ]]; then
    if (($(grep -c '^RUNNING' <<<"$found") == hosts)); then
      found=ACTIVE
    elif [[ $found != *CREATING* && $found != *VERIFYING* ]]; then
      found=FAILED
    fi
  fi
  if $dry_run; then found=$1; fi
  case $found in
    ACTIVE) echo ready ;;
    FAILED | SUSPEND* | DELETING) echo gone ;;
    absent | ready) echo "$found" ;;
    *) echo waiting ;;
  esac
}

# Waits for machines that do not run yet, in state $1; ends if they never will.
come() {
  local words
  words=$(reason)
  if [[ $1 == gone || $words == *[Qq]uota* ]]; then
    explain "$name is taken away, and ./tpu_setup.sh create asks for another" "${words:-no reason is given}"
  fi
  echo "$(date +%H:%M:%S) $name: $1. $words"
  sleep "$poll"
}

# Why the machines do not come, if Google Cloud says so.
reason() {
  if [[ $api == tpu ]]; then
    ask compute tpus queued-resources describe "$name" --zone="$zone" --format='value(state.failedData.error.message)' || true
  else
    ask compute instance-groups managed list-errors "$name" --zone="$zone" --limit=1 --format='value(error.message)' || true
  fi
}

# Runs $3 on host $2, or on all, by $1: cloud or ask.
remote() {
  local machine machines job jobs='' failed=0
  if [[ $api == tpu ]]; then
    "$1" compute tpus tpu-vm ssh "$name" --zone="$zone" --worker="$2" --command="$3"
    return
  fi
  machines=$(instances "$2")
  for machine in $machines; do
    "$1" compute ssh "$machine" --zone="$zone" --command="$3" &
    jobs+=" $!"
  done
  for job in $jobs; do wait "$job" || failed=1; done
  return $failed
}

# Names of the virtual machines of a group: all, or the one with a number.
instances() {
  local names
  names=$(ask compute instance-groups managed list-instances "$name" --zone="$zone" --format='value(name)') || return
  if $dry_run; then names="$name-xxxx"; fi
  sort <<<"$names" | if [[ $1 == all ]]; then cat; else sed -n "$(($1 + 1))p"; fi
}

# running, none, lost, unreachable, or the exit code of the command: 0 only if all hosts have that.
session() {
  local found
  found=$(remote ask all 'cd ~/bertjax && ./tpu_setup.sh host -- look || echo "session: none"') || found=''
  found=$(sed -n 's/.*session: //p' <<<"$found" | sort -rn | uniq)
  case $'\n'$found$'\n' in
    *$'\nrunning\n'*) echo running ;;
    *$'\n2\n'*) echo 2 ;;
    *) echo "${found:-unreachable}" | head -n 1 ;;
  esac
}

create() {
  local now guard region=${zone%-*} policy=''
  print_hourly
  awk "BEGIN {printf \"It deletes itself after %g hours, when it has cost %.2f dollars.\\n\", $max_hours, $chips * $rate * $max_hours}"
  now=$(state absent)
  case $now in
    ready | waiting)
      echo "$name exists already ($now)."
      return
      ;;
    unknown) explain "whether $name exists is unknown" ;;
  esac
  if [[ $api == tpu ]]; then
    ask compute tpus accelerator-types describe "$kind" --zone="$zone" >/dev/null
  else
    ask compute machine-types describe "$kind" --zone="$zone" >/dev/null
  fi || { missing && fail "$zone has no $kind ($type): https://cloud.google.com/tpu/docs/regions-zones lists the zones of each chip."; } || explain "looking for $kind in $zone failed"
  if [[ $now == gone || $api == compute ]]; then remove; fi
  if [[ $api == tpu ]]; then
    # The queue has no limit for a run, except that of flex-start: the machine deletes itself, after it
    # has tried whether it reaches the API. No commas: gcloud splits metadata at them.
    guard="#!/bin/bash
exec >/var/log/bertjax-delete.log 2>&1
PATH=\$PATH:/snap/bin
at=/var/lib/bertjax-delete-at
[ -s \$at ] || echo \$((\$(date +%s) + $seconds)) > \$at
(until gcloud compute tpus queued-resources describe $name --zone=$zone; do sleep 30; done
touch /var/lib/bertjax-can-delete) &
(until [ \$(date +%s) -ge \$(cat \$at) ]; do sleep 30; done
until gcloud compute tpus queued-resources delete $name --zone=$zone --force --quiet; do sleep 60; done) &"
    cloud compute tpus queued-resources create "$name" --node-id="$name" --zone="$zone" \
      --accelerator-type="$kind" --runtime-version="$image" ${spot:+--spot} \
      --scopes=https://www.googleapis.com/auth/cloud-platform --metadata="startup-script=$guard" || explain "creating $name failed"
    return
  fi
  cloud compute instance-templates create "$name" --machine-type="$kind" --image-project=ubuntu-os-accelerator-images \
    --image-family="$image" --boot-disk-type=hyperdisk-balanced --boot-disk-size=200GB --maintenance-policy=TERMINATE \
    --scopes=cloud-platform ${spot:+--provisioning-model=SPOT} --max-run-duration="${seconds}s" --instance-termination-action=DELETE ||
    explain "creating the template $name failed"
  if ((hosts > 1)); then
    cloud compute resource-policies create workload-policy "$name" --type=HIGH_THROUGHPUT \
      --accelerator-topology="$topology" --region="$region" || explain "creating the policy $name failed"
    policy=--workload-policy=projects/$project/regions/$region/resourcePolicies/$name
  fi
  cloud compute instance-groups managed create "$name" --zone="$zone" --template="$name" --size="$hosts" \
    --default-action-on-vm-failure=do-nothing ${policy:+"$policy"} || explain "creating the group $name failed"
}

remove() {
  if [[ $api == tpu ]]; then
    cloud compute tpus queued-resources delete "$name" --zone="$zone" --force || missing || explain "$name may still exist and cost money"
  else
    cloud compute instance-groups managed delete "$name" --zone="$zone" || missing || explain "$name may still exist and cost money"
    cloud compute instance-templates delete "$name" || missing || explain "the template $name may still exist"
    if ((hosts > 1)); then
      cloud compute resource-policies delete "$name" --region="${zone%-*}" || missing || explain "the policy $name may still exist"
    fi
  fi
}

setup() {
  local now
  while now=$(state ready) && [[ $now != ready ]]; do
    [[ $now != absent ]] || fail "$name does not exist in $zone: ./tpu_setup.sh create makes it."
    come "$now"
  done
  if ! $dry_run && [[ $(session) == running ]]; then
    echo "$name runs a command, and is set up."
    return
  fi
  COPYFILE_DISABLE=1 run tar -czf "$errors.tgz" --exclude=__pycache__ bertjax experiments pyproject.toml README.md LICENSE tpu_setup.sh
  transfer all "$errors.tgz" @:bertjax.tgz || explain "copying bertjax to $name failed"
  remote cloud all 'mkdir -p ~/bertjax && cd ~/bertjax && rm -rf bertjax && tar -xzf ~/bertjax.tgz && ./tpu_setup.sh --install' || explain "installing bertjax on $name failed"
  if [[ $api == tpu ]] && ! remote cloud 0 'test -e /var/lib/bertjax-can-delete'; then
    echo "warning: $name has not reached the Cloud TPU API, and may not delete itself: give its service account the role roles/tpu.admin (/var/log/bertjax-delete.log on the machine), or delete it yourself." >&2
  fi
}

# Copies $2 to $3, on host $1 or all; @ stands for the host.
transfer() {
  local machine machines
  if [[ $api == tpu ]]; then
    cloud compute tpus tpu-vm scp --recurse "${2/@/$name}" "${3/@/$name}" --zone="$zone" --worker="$1"
    return
  fi
  machines=$(instances "$1")
  for machine in $machines; do
    cloud compute scp --recurse "${2/@/$machine}" "${3/@/$machine}" --zone="$zone" || return
  done
}

# The command as a shell reads it: the words after --.
quoted() {
  local line
  (($#)) || fail "which command? Give it after --, such as: $verb -- bertjax pretrain --data gs://bucket/shards --workdir gs://bucket/run."
  line=$(printf '%q ' "$@")
  echo "${line% }"
}

start() {
  local line found previous='' word
  line=$(quoted "$@")
  for word in "$@"; do
    if [[ ${previous}${word} == --workdirgs://* ]]; then
      found=$(remote cloud 0 "cd ~/bertjax && ./tpu_setup.sh host -- can-write $(printf %q "$word")") || explain "$name does not answer"
      [[ $found != *refused ]] || fail "$name can't write to $word: \"$(tail -n 2 <<<"$found" | head -n 1)\": give its service account the role roles/storage.objectAdmin on the bucket."
    fi
    previous=$word
  done
  found=$(remote cloud all "cd ~/bertjax && ./tpu_setup.sh host -- start $(printf %q "$line")") || explain "starting the command on $name failed"
  if [[ $found != *'session: running'* ]]; then
    echo "$name runs the command; this terminal may be closed. Next: ./tpu_setup.sh logs"
  else
    [[ $found == *same* ]] || fail "$name runs another command: wait for it (status), or delete $name."
    echo "$name runs the command already."
  fi
}

logs() {
  local command="tail -n 50 ~/bertjax-session/log"
  if $follow; then limit=0 command+=' -f'; fi
  remote cloud "$worker" "$command" || explain "reading the log failed"
}

profile() {
  [[ -n $run_directory ]] || fail "of which run? Give the directory that --workdir named: profile gs://bucket/run."
  if [[ $run_directory == gs://* ]]; then
    cloud storage cp --recursive "${run_directory%/}/profile" "$here"
  else
    transfer "$worker" "@:bertjax/$run_directory/profile" "$here"
  fi || explain "copying the profile failed: was the run given --telemetry.profile-steps FIRST LAST?"
  echo "Next: pip install xprof && xprof --logdir profile"
}

status() {
  local now
  now=$(state ready)
  echo "$name in $zone: $now"
  if [[ $now == ready ]]; then echo "command: $(session)"; fi
  if [[ $now == absent ]]; then return; fi
  if [[ -n $rate ]]; then print_hourly; fi
  echo "Next: ./tpu_setup.sh logs, or ./tpu_setup.sh delete"
}

# Runs a verb in a process of its own, which may fail, for the hours that are left.
again() {
  local hours
  hours=$(awk "BEGIN {left = ($end - $(date +%s)) / 3600; print (left > 0.02 ? left : 0.02)}")
  BERTJAX_TPU_MAX_HOURS=$hours BERTJAX_TPU_PROJECT=$project "$BASH" tpu_setup.sh "$1" $dry_flag "${@:2}"
}

# Ends a babysit: nothing is left running.
finish() {
  if [[ $(state absent) == ready ]]; then again logs || true; fi
  again delete || fail "$name may still exist and cost money: ./tpu_setup.sh delete" 1
  [[ $1 == 0 ]] || fail "$2" "$1"
  echo "$2"
}

# Counts a restart and waits, twice as long as before unless the command ran in between.
back_off() {
  made=$((made + 1))
  ((made <= restarts)) || finish 1 "gave up on $name after $restarts restarts; the last: $1."
  echo "$(date +%H:%M:%S) restart $made of at most $restarts in $((poll << quick)) s: $1."
  sleep $((poll << quick))
  ((quick >= 6)) || quick=$((quick + 1))
}

babysit() {
  local end made=0 quick=0 silent=0 asked=false code=0 now looked
  end=$(($(date +%s) + seconds))
  quoted "$@" >/dev/null
  print_hourly >/dev/null
  export BERTJAX_TPU_TYPE=$type BERTJAX_TPU_ZONE=$zone BERTJAX_TPU_NAME=$name BERTJAX_TPU_RATE=$rate BERTJAX_TPU_SPOT=$spot
  if $dry_run; then
    again create && again setup && again run -- "$@" && finish 0 "This was a dry run."
    return
  fi
  trap 'echo "$name goes on, and costs money: the same command watches it again, ./tpu_setup.sh delete ends it." >&2; exit 130' INT
  while (($(date +%s) + poll < end)); do
    looked=$(date +%s)
    now=$(state absent)
    if [[ $now == ready ]]; then now=$(session); fi
    case $now in
      unknown | unreachable) silent=$((silent + 1)) ;;
      *) silent=0 ;;
    esac
    code=0
    case $now in
      unknown | unreachable)
        sleep "$poll"
        if ((silent >= 10)); then again delete && back_off "$name did not answer"; fi
        ;;
      absent | gone)
        if $asked; then back_off "$name was taken away"; fi
        asked=true
        again create || code=$?
        ;;
      waiting)
        (come waiting) || code=$?
        end=$((end + $(date +%s) - looked)) # the queue costs nothing
        ;;
      none)
        { again setup && again run -- "$@"; } || code=$?
        ((code == 0 || code == 2)) || back_off "the command did not start"
        ;;
      running) sleep "$poll" && quick=0 ;;
      0) finish 0 "The command is done; $name is deleted." && return ;;
      2) finish 2 "the command ended with exit code 2, a mistake: its last lines are above." ;;
      *)
        back_off "the command ended with exit code $now"
        again run -- "$@" || code=$?
        ;;
    esac
    ((code != 2)) || finish 2 "nothing is left running, see above."
  done
  finish 1 "the $max_hours hours of $name are over before the command is done: the same command goes on with it."
}

check_settings
if $dry_run; then dry_flag=--dry-run; else dry_flag=''; fi
case $verb in
  run) start "$@" ;;
  delete) remove && echo "$name is deleted." ;;
  *) "$verb" "$@" ;;
esac
