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

helm lint --strict --quiet charts/compozy-crds
render >"$out/default.yaml"
for values in charts/compozy/ci/*-values.yaml; do
  helm lint --strict --quiet --values "$values" charts/compozy
  render --values "$values" >"$out/$(basename "$values")"
done

refuses "typo" --set typo=1
refuses "flavour" --set nats.flavour=plain
refuses "replicas" --set replicas=many
refuses "leaseDuration" --set leaderElection.leaseDuration=soon
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
for dir in config/default config/samples; do kubectl kustomize "$dir" >/dev/null; done
echo "charts and kustomizations are in order"
