"""Checks the alerts and the dashboard of config/monitoring: every expression parses, every metric and label in it is one
that docs/install.md lists, and every alert says what it is about and leads to a heading of a document.

That the list is the operator's own metrics is checked with the documents, by check_docs.py.
"""

import json
import re
import sys
from pathlib import Path

import promql_parser
import yaml
from check_docs import headings

ROOT = Path(__file__).resolve().parents[1]
MONITORING = ROOT / "config" / "monitoring"
ROW = re.compile(r"^\| `(compozy_\w+)` \|([^|]*)\| ([^|]*) \|$", re.MULTILINE)
# What Prometheus itself adds to what it reads.
TARGET = {"namespace", "pod", "instance", "job"}
SEVERITIES = {"critical", "warning"}


def documented():
    """Labels by metric, as they are exposed: a histogram has three names."""
    metrics = {}
    for name, labels, meaning in ROW.findall((ROOT / "docs" / "install.md").read_text()):
        labels = set(re.findall(r"`(\w+)`", labels)) | TARGET
        if meaning.startswith("histogram"):
            metrics |= {f"{name}_count": labels, f"{name}_sum": labels, f"{name}_bucket": labels | {"le"}}
        else:
            metrics[name] = labels
    return metrics


def wrong_expression(text, metrics):
    # What Grafana puts in, and Prometheus would not read.
    text = text.replace("$__rate_interval", "5m")
    try:
        expression = promql_parser.parse(text)
    except ValueError as error:
        yield f"{text}: {error}"
        return
    named, grouped = [], set()

    def look(node):
        if isinstance(node, promql_parser.VectorSelector):
            named.append(node)
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            grouped.update(node.modifier.labels)

    promql_parser.walk(expression, look)
    known = set()
    for selector in named:
        labels = metrics.get(selector.name)
        if labels is None:
            yield f"{text}: the operator has no metric {selector.name}"
            continue
        known |= labels
        for matcher in selector.matchers.matchers:
            if matcher.name not in labels:
                yield f"{text}: {selector.name} has no label {matcher.name}"
    for label in grouped - known:
        yield f"{text}: none of its metrics has a label {label}"


def wrong_alert(rule, metrics):
    yield from wrong_expression(rule["expr"], metrics)
    if rule.get("labels", {}).get("severity") not in SEVERITIES:
        yield f"its severity is none of {sorted(SEVERITIES)}"
    annotations = rule.get("annotations", {})
    yield from (f"it has no {name}" for name in ("summary", "description") if not annotations.get(name))
    document, _, heading = annotations.get("runbook_url", "").partition("#")
    if not (ROOT / document).is_file() or heading not in headings((ROOT / document).read_text()):
        yield "its runbook_url leads to no heading of a document"


def wrong_alerts(metrics):
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
    names = set()
    for rule in (rule for group in rules["spec"]["groups"] for rule in group["rules"]):
        name = rule["alert"]
        if name in names:
            yield f"{name}: there are two of that name"
        names.add(name)
        yield from (f"{name}: {what}" for what in wrong_alert(rule, metrics))


def wrong_panels(metrics):
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    for panel in panels:
        targets = panel.get("targets", [])
        if panel["type"] != "row" and not targets:
            yield f"{panel['title']}: it shows nothing"
        for target in targets:
            yield from (f"{panel['title']}: {what}" for what in wrong_expression(target["expr"], metrics))


def main():
    metrics = documented()
    wrong = [f"alerts.yaml: {what}" for what in wrong_alerts(metrics)]
    wrong += [f"dashboard.json: {what}" for what in wrong_panels(metrics)]
    sys.exit("\n".join(wrong) or None)


main()
