# shellcheck shell=bash
# Long-running programs of the cluster, each known by a pid file. After a crash or a reboot the number in it may belong
# to somebody else, so it counts only while /proc shows a command line that names our state directory.

pid_of() { # name
  local pid
  pid=$(cat "$COMPOZY_CLUSTER/run/$1.pid" 2>/dev/null) || return 1
  grep --quiet --fixed-strings --no-messages "$COMPOZY_CLUSTER/" "/proc/$pid/cmdline" || return 1
  echo "$pid"
}

# Runs a program in the background, unless this very command runs already. One that runs with other arguments, or from
# a binary that was replaced since, is stopped first.
ensure_running() { # name command...
  local name=$1 pid
  shift
  if pid=$(pid_of "$name"); then
    [[ $(readlink "/proc/$pid/exe") == "$(readlink --canonicalize "$1")" ]] &&
      printf '%s\0' "$@" | cmp --quiet - "/proc/$pid/cmdline" && return
    stop "$name"
  fi
  mkdir -p "$COMPOZY_CLUSTER"/{run,log}
  setsid "$@" >>"$COMPOZY_CLUSTER/log/$name.log" 2>&1 </dev/null 9>&- &
  echo $! >"$COMPOZY_CLUSTER/run/$name.pid"
}

stop() { # name
  local pid
  if pid=$(pid_of "$1"); then end_process "$pid"; fi
  rm -f "$COMPOZY_CLUSTER/run/$1.pid"
}

# Asks a process to end, and ends it after ten seconds.
end_process() { # pid
  local _
  kill "$1" 2>/dev/null || return 0
  for _ in {1..100}; do
    kill -0 "$1" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -KILL "$1" 2>/dev/null || true
}
