#!/usr/bin/env bash
# Checks the charts and the kustomizations without a cluster: they render with every
# set of values in ci/, refuse wrong values, and are current with what they are made of.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

helm() { command "${HELM:-helm}" "$@"; }
kubectl() { command "${KUBECTL:-kubectl}" "$@"; }
fail() { echo "$*" >&2; exit 1; }
render() { helm template compozy charts/compozy --namespace compozy-system --kube-version 1.34.0 "$@"; }

# $1: what the refusal must say; the rest: values.
refuses() {
  local want=$1; shift
  if render "$@" >"$out/refused" 2>&1; then fail "accepted: $*"; fi
  grep -q -- "$want" "$out/refused" || { cat "$out/refused" >&2; fail "refused for another reason: $*"; }
}

# $1: what was rendered; $2: a line of it, or a part of one.
holds() { grep -qF -- "$2" "$out/$1" || fail "$1 lacks: $2"; }
lacks() { if grep -nF -- "$2" "$out/$1"; then fail "$1 must not have: $2"; fi; }

helm lint --strict --quiet charts/compozy-crds
render >"$out/default.yaml"
for values in charts/compozy/ci/*-values.yaml; do
  helm lint --strict --quiet --values "$values" charts/compozy
  render --values "$values" >"$out/$(basename "$values")"
done

# What a value adds is there with it and not there without it.
lacks default.yaml 'kind: PodDisruptionBudget'
holds everything-values.yaml 'maxUnavailable: 50%'
holds everything-values.yaml 'runtimeClassName: gvisor'
holds everything-values.yaml 'mountPath: /scratch'
holds default.yaml 'maxSurge: 1, maxUnavailable: 0'

# NATS of one's own: each kind of credential is mounted and named.
holds external-values.yaml 'COMPOZY_NATS_PASSWORD_FILE, value: /etc/compozy/nats/password'
holds external-creds-values.yaml 'COMPOZY_NATS_CREDS_FILE, value: /etc/compozy/nats/nats.creds'
holds external-creds-values.yaml 'secret: {name: compozy-nats, items: [{key: nats.creds, path: nats.creds}]}'
holds external-creds-values.yaml 'COMPOZY_NATS_CA_FILE, value: /etc/compozy/nats/ca.crt'
holds external-token-values.yaml 'COMPOZY_NATS_TOKEN_FILE, value: /etc/compozy/nats/token'
holds external-certificate-values.yaml 'COMPOZY_NATS_KEY_FILE, value: /etc/compozy/nats/tls.key'
lacks external-certificate-values.yaml 'COMPOZY_NATS_USER_FILE'
lacks no-mirror-values.yaml 'COMPOZY_NATS'
# TLS of the bundled server is on both sides, or on none.
for part in 'tls://compozy-nats' 'COMPOZY_NATS_CA_FILE' 'cert_file: /etc/nats-tls/tls.crt'; do
  holds everything-values.yaml "$part"
  lacks default.yaml "$part"
done
holds everything-values.yaml 'STREAM_MAX_MESSAGES, value: "20000000"'

# Whom the bundled server does not know it asks the operator: both have the key, or neither.
[[ $(sed -n 's/^  issuer\.key: //p' "$out/default.yaml" | base64 -d | wc -c) == 32 ]] || fail "the issuer's key is not 32 bytes"
holds default.yaml 'COMPOZY_NATS_ISSUER_KEY_FILE, value: /etc/compozy/nats/issuer.key'
holds everything-values.yaml 'secret: {name: signs, items: [{key: issuer.key, path: issuer.key}]}'
holds everything-values.yaml 'secretName: signs'
holds everything-values.yaml 'image: registry.example/compozy:edge'
for values in external no-mirror namespaced; do
  lacks "$values-values.yaml" issuer
  lacks "$values-values.yaml" tokenreviews
done
# With every Secret named nothing is generated, so that each rendering is the same.
lacks everything-values.yaml 'kind: Secret'
holds everything-values.yaml 'COMPOZY_EXECUTOR_IMAGE, value: "registry.example/compozy:edge"'
holds everything-values.yaml 'COMPOZY_EXECUTOR_IMAGE_PULL_POLICY, value: Always'
holds no-mirror-values.yaml 'COMPOZY_EXECUTOR_IMAGE, '

lacks default.yaml 'kind: NetworkPolicy'
[[ $(grep -c 'kind: NetworkPolicy' "$out/everything-values.yaml") == 2 ]] || fail "a NetworkPolicy for each of operator and NATS"
holds everything-values.yaml 'reads: events'
holds everything-values.yaml '{key: compozy.dev/tool, operator: Exists}'
for port in 4222 5222; do holds external-creds-values.yaml "{port: $port}"; done
holds external-creds-values.yaml 'cidr: "10.0.0.1/32"'
holds external-token-values.yaml '{port: 4222}'

# Where the API is not seen, a ServiceMonitor would stop the whole installation.
holds everything-values.yaml 'kind: ServiceMonitor'
lacks external-certificate-values.yaml 'kind: ServiceMonitor'
render --values charts/compozy/ci/external-certificate-values.yaml --api-versions monitoring.coreos.com/v1 >"$out/monitored"
holds monitored 'kind: ServiceMonitor'

# Confined to namespaces nothing is made for the whole cluster, but for the bundled NATS one right that has no namespace.
lacks namespaced-values.yaml 'kind: ClusterRole'
render --set 'watchNamespaces={team-a}' >"$out/namespaced-nats"
[[ $(grep -c '^kind: ClusterRole$' "$out/namespaced-nats") == 1 ]] || fail "confined, with NATS: one ClusterRole"
holds namespaced-nats 'name: compozy-operator-tokens-compozy-system'
holds namespaced-nats 'resources: [tokenreviews]'
for namespace in team-a team-b; do holds namespaced-values.yaml "namespace: $namespace"; done
[[ $(grep -c 'COMPOZY_WATCH_NAMESPACES, value: "team-a,team-b"' "$out/namespaced-values.yaml") == 2 ]] ||
  fail "the operator and the Job of its uninstallation are not told their namespaces"

refuses "typo" --set typo=1
refuses "flavour" --set nats.flavour=plain
refuses "replicas" --set replicas=many
refuses "leaseDuration" --set leaderElection.leaseDuration=soon
refuses "watchNamespaces" --set 'watchNamespaces={Team}'
refuses "serviceAccountName" --set podSpec.serviceAccountName=other
refuses "afterFailed" --set ttl.afterFailed=soon
refuses "choose one" --set nats.external.url=nats://elsewhere:4222

# Rights are named one by one.
if grep -nE "(resources|verbs|apiGroups): .*\*" "$out"/*.yaml; then fail "a wildcard in a role"; fi

# The definitions: verbatim in the chart, and kept by it.
for crd in workflows taskexecutions tools executorpools; do
  diff "crds/$crd.yaml" "charts/compozy-crds/files/$crd.yaml" || fail "the chart's $crd.yaml is not current: run make crds"
done
helm template compozy-crds charts/compozy-crds --kube-version 1.34.0 >"$out/crds.yaml"
[[ $(grep -c 'helm.sh/resource-policy: keep' "$out/crds.yaml") == 4 ]] || fail "definitions without the keep policy"

config/generate.sh --check
for dir in config/*/kustomization.yaml; do kubectl kustomize "$(dirname "$dir")" >"$out/$(basename "$(dirname "$dir")")-kustomized"; done
holds ha-kustomized 'replicas: 2'
holds ha-kustomized 'kind: PodDisruptionBudget'
holds namespaced-kustomized 'value: workflows'
lacks namespaced-kustomized 'kind: ClusterRole'
echo "charts and kustomizations are in order"
