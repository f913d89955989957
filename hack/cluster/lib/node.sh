# shellcheck shell=bash
# The node: containerd, kubelet and kube-proxy.

# shellcheck source=hack/cluster/lib/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

start_containerd() {
  write_cni_config
  write_containerd_config
  ensure_running containerd "$(command -v containerd)" --config "$COMPOZY_CLUSTER/containerd/config.toml"
  wait_for containerd in_containerd version
}

start_node() {
  write_kubelet_config
  ensure_running kubelet "$COMPOZY_BIN/kubelet" --kubeconfig="$COMPOZY_CLUSTER/kubelet.conf" \
    --config="$COMPOZY_CLUSTER/kubelet.yaml" --root-dir="$COMPOZY_CLUSTER/kubelet" \
    --hostname-override="$node_name" --node-ip="$node_address"
  # conntrack-max-per-core=0: the limit is the machine's to set, and not writable everywhere.
  ensure_running proxy "$COMPOZY_BIN/kube-proxy" --kubeconfig="$COMPOZY_CLUSTER/proxy.conf" --proxy-mode=iptables \
    --hostname-override="$node_name" --cluster-cidr="$pod_range" --conntrack-max-per-core=0
}

write_cni_config() {
  mkdir -p "$COMPOZY_CLUSTER/cni/conf"
  cat >"$COMPOZY_CLUSTER/cni/conf/10-$cni_network.conflist" <<JSON
{
  "cniVersion": "0.4.0",
  "name": "$cni_network",
  "plugins": [
    {
      "type": "bridge", "bridge": "$pod_bridge", "isGateway": true, "ipMasq": true, "hairpinMode": true,
      "ipam": {
        "type": "host-local", "dataDir": "$COMPOZY_CLUSTER/cni/addresses",
        "ranges": [[{"subnet": "$pod_range_of_node"}]], "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
JSON
}

# restrict_oom_score_adj: without CAP_SYS_RESOURCE (many CI machines) no container would start otherwise.
# sandbox_image must be fully qualified, or it is looked for under another name.
write_containerd_config() {
  local snapshotter=overlayfs
  mkdir -p "$COMPOZY_CLUSTER/containerd"
  # No overlay on an overlay: a machine that is itself a container copies instead.
  [[ $(stat --file-system --format=%T "$COMPOZY_CLUSTER") == overlayfs ]] && snapshotter=native
  cat >"$COMPOZY_CLUSTER/containerd/config.toml" <<TOML
version = 2
root = "$COMPOZY_CLUSTER/containerd/root"
state = "$COMPOZY_CLUSTER/containerd/state"
[grpc]
  address = "$socket"
[plugins."io.containerd.internal.v1.opt"]
  path = "$COMPOZY_CLUSTER/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/pause:local"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "$snapshotter"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        Root = "$COMPOZY_CLUSTER/containerd/runc"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$COMPOZY_CLUSTER/cni/conf"
TOML
}

# Images come from hack/images only, so none may be collected; a nearly full disk must not evict the pods of a test.
write_kubelet_config() {
  cat >"$COMPOZY_CLUSTER/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: $pki/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: $pki/kubelet.crt
tlsPrivateKeyFile: $pki/kubelet.key
containerRuntimeEndpoint: unix://$socket
cgroupDriver: cgroupfs
failSwapOn: false
localStorageCapacityIsolation: false
clusterDomain: cluster.local
clusterDNS: [$service_dns]
resolvConf: /etc/resolv.conf
podLogsDir: $COMPOZY_CLUSTER/log/pods
maxPods: 250
registryPullQPS: 0
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
YAML
}
