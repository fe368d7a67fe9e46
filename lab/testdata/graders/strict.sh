#!/usr/bin/env bash
# Imitates a platform engineer who was asked to grade for once: strict mode, traps,
# no point for anybody whose module cannot be unloaded.
set -Eeuo pipefail
shopt -s inherit_errexit
IFS=$'\n\t'

readonly proc=/proc/kstat
readonly param=/sys/module/kstat/parameters/start
declare -i done_steps=0
step='nothing yet'

cleanup() {
  local -r status=$?
  trap - EXIT
  if [[ -d /sys/module/kstat ]]; then
    rmmod kstat
  fi
  if ((status != 0)); then
    echo "not ok: $step (exit $status)"
  fi
  echo "score: $done_steps/8"
  exit "$status"
}
trap cleanup EXIT
trap 'echo "line $LINENO: $BASH_COMMAND" >&2' ERR

begin() { step=$1; }
end() {
  done_steps+=1
  echo "ok: $step"
}
expect() { [[ "$(<"$1")" == "$2" ]]; }
knock() {
  local -i i
  for ((i = 0; i < $1; i++)); do
    if (exec 3<>/dev/tcp/127.0.0.1/5) 2>/dev/null; then return 1; fi
  done
}

begin 'the module says what it is'
modinfo kstat.ko | grep '^license:' >/dev/null
modinfo kstat.ko | sed -n 's/^parm: *//p' | grep '^start:' >/dev/null
end

begin 'it loads'
insmod kstat.ko
lsmod | awk '$1 == "kstat" { found = 1 } END { exit !found }'
end

begin 'it counts nothing of its own accord'
expect "$param" 0
knock 5
expect "$proc/nout" 0
end

begin 'it cannot be loaded twice'
if insmod kstat.ko 2>/dev/null; then false; fi
end

begin 'it counts'
echo 1 >"$param"
for want in 10 20 30; do
  knock 5
  expect "$proc/nout" "$want"
done
end

begin 'counter may grow while packets wait'
knock 2
echo 12 >"$proc/counter"
knock 3
expect "$proc/nout" 30
knock 1
expect "$proc/nout" 42
end

begin 'counter may shrink while packets wait'
knock 2
echo 5 >"$proc/counter"
expect "$proc/nout" 42
echo 4 >"$proc/counter"
expect "$proc/nout" 46
end

begin 'it unloads'
rmmod kstat
if grep '^kstat ' /proc/modules; then false; fi
end
