# shellcheck shell=bash
# Certificates and kubeconfigs, made once and kept with the cluster's state.

# shellcheck source=hack/cluster/lib/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

create_pki() {
  [[ -f $pki/done ]] && return
  say "making certificates"
  mkdir -p "$pki"
  openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=compozy-local -keyout "$pki/ca.key" -out "$pki/ca.crt" 2>/dev/null
  openssl genrsa -out "$pki/service-accounts.key" 2048 2>/dev/null
  openssl rsa -in "$pki/service-accounts.key" -pubout -out "$pki/service-accounts.pub" 2>/dev/null

  certificate apiserver /CN=kube-apiserver \
    "$(dns_names kubernetes kubernetes.default kubernetes.default.svc localhost),IP:127.0.0.1,IP:$node_address,IP:$service_api"
  certificate kubelet "/O=system:nodes/CN=system:node:$node_name" "DNS:$node_name,IP:$node_address"
  certificate apiserver-kubelet /O=system:masters/CN=apiserver-kubelet DNS:apiserver
  certificate admin /O=system:masters/CN=admin DNS:admin
  local component
  for component in controller-manager scheduler proxy; do
    certificate "$component" "/CN=system:kube-$component" "DNS:$component"
  done
  for component in admin controller-manager scheduler proxy kubelet; do kubeconfig_of "$component"; done
  touch "$pki/done"
}

dns_names() {
  local names
  names=$(printf 'DNS:%s,' "$@")
  echo "${names%,}"
}

certificate() { # name subject alternative-names
  openssl req -newkey rsa:2048 -nodes -subj "$2" -keyout "$pki/$1.key" -out "$pki/$1.csr" 2>/dev/null
  openssl x509 -req -in "$pki/$1.csr" -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -CAcreateserial -days 3650 -out "$pki/$1.crt" \
    -extfile <(printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$3") 2>/dev/null
}

kubeconfig_of() { # component
  (
    umask 077
    cat >"$COMPOZY_CLUSTER/$1.conf" <<YAML
apiVersion: v1
kind: Config
current-context: compozy
clusters:
- name: compozy
  cluster:
    server: https://127.0.0.1:$api_port
    certificate-authority-data: $(base64 --wrap=0 "$pki/ca.crt")
users:
- name: $1
  user:
    client-certificate-data: $(base64 --wrap=0 "$pki/$1.crt")
    client-key-data: $(base64 --wrap=0 "$pki/$1.key")
contexts:
- name: compozy
  context: {cluster: compozy, user: $1}
YAML
  )
}
