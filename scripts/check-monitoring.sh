#!/usr/bin/env bash
# Checks deploy/monitoring: that the rules and the queries of the dashboard are valid, that each alert fires in its test, and
# that all of them use only metrics that docs/metrics.md has. Needs promtool.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
PATH=$(pwd)/build/prometheus:$PATH
need promtool prometheus
need_python_module yaml PyYAML==6.0.3

folder=deploy/monitoring
promtool check rules "$folder/alerts.yaml"
(cd "$folder" && promtool test rules alerts-test.yaml)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
build/venv/bin/python - "$folder" "$work/queries.yaml" docs/metrics.md <<'PYTHON' || die "the dashboard and the rules do not fit: see above"
import json
import pathlib
import re
import sys

import yaml

folder, queries, documented = (pathlib.Path(argument) for argument in sys.argv[1:])
rules = [rule for group in yaml.safe_load((folder / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
tests = yaml.safe_load((folder / "alerts-test.yaml").read_text())["tests"]
fired = {test["alertname"] for t in tests for test in t["alert_rule_test"] if test["exp_alerts"]}
failures = [f"no test sees the alert {rule['alert']} fire" for rule in rules if rule["alert"] not in fired]

dashboard = json.loads((folder / "dashboard.json").read_text())
expressions = {}
for panel in dashboard["panels"]:
    for target in panel.get("targets", []):
        # Grafana puts these in.
        expression = target["expr"].replace("$__rate_interval", "5m")
        expressions[f"{panel['title']} {target['refId']}"] = re.sub(r'"\$\w+"', '".*"', expression)
names = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(expressions.values())]
queries.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": names}]}))

ids = [panel["id"] for panel in dashboard["panels"]]
if len(ids) != len(set(ids)):
    failures.append("two panels have the same id")
if documented.exists():
    known = set(re.findall(r"`(wq_\w+)", documented.read_text()))
    asked = {"the rules": " ".join(rule["expr"] for rule in rules), "the dashboard": " ".join(expressions.values())}
    for where, text in asked.items():
        for name in set(re.findall(r"\bwq_\w+", text)):
            if name not in known and re.sub(r"_bucket$", "", name) not in known:
                failures.append(f"{where}: there is no metric {name} in {documented}")
print("\n".join(failures), file=sys.stderr)
sys.exit(bool(failures))
PYTHON
promtool check rules "$work/queries.yaml" >/dev/null || die "a query of the dashboard is none"
