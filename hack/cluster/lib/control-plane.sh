# shellcheck shell=bash
# etcd, the API server, the controllers and the scheduler, as processes of the machine.

# shellcheck source=hack/cluster/lib/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

start_control_plane() {
  start_etcd
  start_apiserver
  wait_for "the API server" kubectl get --raw /readyz
  ensure_running controller-manager "$COMPOZY_BIN/kube-controller-manager" --kubeconfig="$COMPOZY_CLUSTER/controller-manager.conf" \
    --leader-elect=false --use-service-account-credentials --root-ca-file="$pki/ca.crt" \
    --service-account-private-key-file="$pki/service-accounts.key" --allocate-node-cidrs --cluster-cidr="$pod_range"
  ensure_running scheduler "$COMPOZY_BIN/kube-scheduler" --kubeconfig="$COMPOZY_CLUSTER/scheduler.conf" --leader-elect=false
}

# Without fsync: a power loss may cost the test cluster, and every write is much faster.
start_etcd() {
  ensure_running etcd "$COMPOZY_BIN/etcd" --data-dir="$COMPOZY_CLUSTER/etcd" --unsafe-no-fsync --log-level=warn \
    --listen-client-urls="http://127.0.0.1:$etcd_port" --advertise-client-urls="http://127.0.0.1:$etcd_port" \
    --listen-peer-urls="http://127.0.0.1:$((etcd_port + 1))"
}

start_apiserver() {
  write_audit_policy
  ensure_running apiserver "$COMPOZY_BIN/kube-apiserver" --etcd-servers="http://127.0.0.1:$etcd_port" \
    --secure-port="$api_port" --advertise-address="$node_address" --service-cluster-ip-range="$service_range" \
    --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" --client-ca-file="$pki/ca.crt" \
    --kubelet-client-certificate="$pki/apiserver-kubelet.crt" --kubelet-client-key="$pki/apiserver-kubelet.key" \
    --kubelet-preferred-address-types=InternalIP --allow-privileged \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
    --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$pki/service-accounts.pub" \
    --service-account-signing-key-file="$pki/service-accounts.key" \
    --audit-policy-file="$COMPOZY_CLUSTER/audit.yaml" --audit-log-path="$COMPOZY_CLUSTER/log/audit.log" \
    --audit-log-maxsize=200 --audit-log-maxbackup=1
}

# Who asked for what, of the service accounts in compozy-system: what the operator does as the API server saw it.
write_audit_policy() {
  cat >"$COMPOZY_CLUSTER/audit.yaml" <<YAML
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- {level: Metadata, userGroups: ["system:serviceaccounts:compozy-system"]}
- {level: None}
YAML
}
