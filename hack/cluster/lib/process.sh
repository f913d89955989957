# shellcheck shell=bash
# Long-running programs of the cluster, each known by a file with its pid and one with its command line. After a crash or
# a reboot the pid may belong to somebody else: it counts only while /proc shows that very command line.

pid_of() { # name
  local pid run=$COMPOZY_CLUSTER/run
  pid=$(cat "$run/$1.pid" 2>/dev/null) || return 1
  { tr '\0' '\n' <"/proc/$pid/cmdline"; } 2>/dev/null | cmp --quiet - "$run/$1.command" || return 1
  echo "$pid"
}

# Runs a program in the background, unless this very command runs already. One that runs with other arguments, or from
# a binary that was replaced since, is stopped first.
ensure_running() { # name command...
  local name=$1 pid run=$COMPOZY_CLUSTER/run
  shift
  if pid=$(pid_of "$name"); then
    [[ $(readlink "/proc/$pid/exe") == "$(readlink --canonicalize "$1")" ]] &&
      printf '%s\n' "$@" | cmp --quiet - "$run/$name.command" && return
    stop "$name"
  fi
  mkdir -p "$run" "$COMPOZY_CLUSTER/log"
  printf '%s\n' "$@" >"$run/$name.command"
  # The descriptors of locks stay here: what runs on must not hold them.
  setsid "$@" >>"$COMPOZY_CLUSTER/log/$name.log" 2>&1 </dev/null 8>&- 9>&- &
  echo $! >"$run/$name.pid"
}

# Fails if a program has ended since it was started: another one may answer in its place.
check_running() {
  local file name
  for file in "$COMPOZY_CLUSTER"/run/*.pid; do
    name=$(basename "$file" .pid)
    pid_of "$name" >/dev/null || die "$name has ended: $(tail -n 1 "$COMPOZY_CLUSTER/log/$name.log")"
  done
}

stop() { # name
  local pid run=$COMPOZY_CLUSTER/run
  if pid=$(pid_of "$1"); then end_process "$pid"; fi
  rm -f "$run/$1.pid" "$run/$1.command"
}

# Asks a process to end, and ends it after three seconds.
end_process() { # pid
  local _
  kill "$1" 2>/dev/null || return 0
  for _ in {1..30}; do
    kill -0 "$1" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -KILL "$1" 2>/dev/null || true
}
