# shellcheck shell=bash
# Ending what runs under containerd, also after containerd itself died and left its shims behind.

# shellcheck source=hack/cluster/lib/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

# Shims of our containerd, by the socket in their command line.
shims() {
  local file
  for file in /proc/[0-9]*/cmdline; do
    if tr '\0' ' ' 2>/dev/null <"$file" | grep --quiet --fixed-strings "containerd-shim-runc-v2 -namespace k8s.io" &&
      grep --quiet --fixed-strings --no-messages "$socket" "$file"; then
      basename "$(dirname "$file")"
    fi
  done
}

children_of() { cat "/proc/$1/task/$1/children" 2>/dev/null; }

# The kubelet is gone by now, so nothing starts these again.
remove_containers() {
  local shim child
  for shim in $(shims); do
    for child in $(children_of "$shim"); do kill -KILL "$child" 2>/dev/null || true; done
  done
  for shim in $(shims); do kill -KILL "$shim" 2>/dev/null || true; done
}

# Cgroups of pods outlive their processes; the kernel removes one only when it is empty, deepest first.
remove_cgroups() {
  find /sys/fs/cgroup -depth -type d -path '*/kubepods*' -exec rmdir {} + 2>/dev/null || true
}

remove_mounts() {
  local mount
  awk -v dir="$COMPOZY_CLUSTER/" 'index($2, dir) == 1 { print $2 }' /proc/mounts | sort --reverse |
    while read -r mount; do umount --lazy "$mount"; done
}

# What the kubelet and the CNI plugins note about our pods in places that cannot be set.
remove_records() {
  find /var/log/containers -lname "$COMPOZY_CLUSTER/*" -delete 2>/dev/null || true
  # grep fails when there are none, which is what is wanted.
  { grep --recursive --files-with-matches --fixed-strings --null "$COMPOZY_CLUSTER/" /var/lib/cni/results 2>/dev/null || true; } |
    xargs --null --no-run-if-empty rm -f
}
