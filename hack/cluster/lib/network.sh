# shellcheck shell=bash
# The node's own bridges and packet rules.

# shellcheck source=hack/cluster/lib/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

create_network() {
  local module
  for module in overlay br_netfilter; do modprobe --quiet "$module" 2>/dev/null || true; done
  sysctl --quiet --write net.ipv4.ip_forward=1
  # Absent where the kernel has no bridge filter: pods on one bridge then reach each other without packet rules.
  sysctl --quiet --write net.bridge.bridge-nf-call-iptables=1 2>/dev/null || true

  # A bridge without ports keeps the node's address, and is where service addresses are routed to: a packet for one that
  # no rule redirects must not leave by the machine's real interface.
  ip link show "$service_bridge" &>/dev/null || ip link add "$service_bridge" type bridge
  ip link set "$service_bridge" up
  ip address replace "$node_address/32" dev "$service_bridge"
  ip route replace "$service_range" dev "$service_bridge"
}

remove_network() {
  local bridge command
  for bridge in "$service_bridge" "$pod_bridge"; do
    if ip link show "$bridge" &>/dev/null; then ip link delete "$bridge"; fi
  done
  for command in iptables ip6tables; do remove_packet_rules "$command"; done
}

# Drops the chains of kube-proxy and the kubelet, and those that our CNI network made; leaves every other rule.
remove_packet_rules() { # iptables or ip6tables
  local rules kept
  rules=$("$1-save" 2>/dev/null) || return 0
  kept=$(awk -v network="$cni_network" '
    function foreign_to_us(line,  chain) {
      if (line ~ /KUBE-/) return 0
      for (chain in ours) if (index(line, chain)) return 0
      return 1
    }
    NR == FNR { if (index($0, "name: \\\"" network "\\\"") && match($0, /CNI-[0-9a-f]+/)) ours[substr($0, RSTART, RLENGTH)]; next }
    foreign_to_us($0)' <(echo "$rules") <(echo "$rules"))
  if [[ $kept != "$rules" ]]; then "$1-restore" <<<"$kept"; fi
}
