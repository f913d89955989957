# shellcheck shell=bash
# shellcheck disable=SC2034
# The addresses and names of the cluster, for the scripts that source this.

node_name=node-a
service_range=10.96.0.0/16 service_api=10.96.0.1 service_dns=10.96.0.10
pod_range=10.244.0.0/16 pod_range_of_node=10.244.0.0/24
# The node has an address of its own, on a bridge of its own: the cluster works the same whatever network the machine
# is in, and survives a change of the machine's address.
node_address=10.97.0.1
service_bridge=compozy-svc pod_bridge=compozy-pod cni_network=compozy
api_port=6443 etcd_port=2379
volume_count=10

pki=$COMPOZY_CLUSTER/pki
socket=$COMPOZY_CLUSTER/containerd/containerd.sock

kubectl() { "$COMPOZY_BIN/kubectl" --kubeconfig "$COMPOZY_CLUSTER/admin.conf" "$@"; }
in_containerd() { ctr --address "$socket" --namespace k8s.io "$@"; }

# Tries a command until it succeeds, for a minute.
wait_for() { # what command...
  local what=$1 deadline=$((SECONDS + 60))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || die "waited a minute for $what; logs are in $COMPOZY_CLUSTER/log"
    sleep 0.2
  done
}
