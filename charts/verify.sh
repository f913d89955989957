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

# Confined to namespaces nothing is made for the whole cluster.
lacks namespaced-values.yaml 'kind: ClusterRole'
for namespace in team-a team-b; do holds namespaced-values.yaml "namespace: $namespace"; done
[[ $(grep -c 'COMPOZY_WATCH_NAMESPACES, value: "team-a,team-b"' "$out/namespaced-values.yaml") == 2 ]] ||
  fail "the operator and the Job of its uninstallation are not told their namespaces"

refuses "typo" --set typo=1
refuses "flavour" --set nats.flavour=plain
refuses "replicas" --set replicas=many
refuses "leaseDuration" --set leaderElection.leaseDuration=soon
refuses "watchNamespaces" --set 'watchNamespaces={Team}'
refuses "serviceAccountName" --set podSpec.serviceAccountName=other
refuses "choose one" --set nats.external.url=nats://elsewhere:4222

# Rights are named one by one.
if grep -nE "(resources|verbs|apiGroups): .*\*" "$out"/*.yaml; then fail "a wildcard in a role"; fi

# The definitions: verbatim in the chart, and kept by it.
for crd in workflows taskexecutions; do
  diff "crds/$crd.yaml" "charts/compozy-crds/files/$crd.yaml" || fail "the chart's $crd.yaml is not current: run make crds"
done
helm template compozy-crds charts/compozy-crds --kube-version 1.34.0 >"$out/crds.yaml"
[[ $(grep -c 'helm.sh/resource-policy: keep' "$out/crds.yaml") == 2 ]] || fail "definitions without the keep policy"

config/generate.sh --check
for dir in config/*/kustomization.yaml; do kubectl kustomize "$(dirname "$dir")" >"$out/$(basename "$(dirname "$dir")")-kustomized"; done
holds ha-kustomized 'replicas: 2'
holds ha-kustomized 'kind: PodDisruptionBudget'
holds namespaced-kustomized 'value: workflows'
lacks namespaced-kustomized 'kind: ClusterRole'
echo "charts and kustomizations are in order"
