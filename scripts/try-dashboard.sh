#!/usr/bin/env bash
# Runs workers with every kind of outcome, monitored by a Prometheus, and sends it each query of the dashboard: all of them have
# to return data. Needs the package prometheus.
#
#   scripts/try-dashboard.sh [BINARY]                  default: target/debug/wq-run
#   scripts/try-dashboard.sh --draw FILE [BINARY]      works for three minutes and draws the panels, as docs/dashboard.svg
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
PATH=$(pwd)/build/prometheus:$PATH
need prometheus prometheus
need_python_module yaml PyYAML==6.0.3

draw=
if [ "${1:-}" = --draw ]; then
    draw=${2:?names no file}
    shift 2
fi
binary=$(realpath "${1:-${CARGO_TARGET_DIR:-target}/debug/wq-run}")
guest=$PWD/tests/guests/obey.wat
work=$(mktemp -d)
children=()
clean_up() {
    local child
    for child in ${children[@]+"${children[@]}"}; do kill "$child" 2>/dev/null || true; done
    wait
    rm -rf "$work"
}
trap clean_up EXIT

unset "${!WQ_@}" BROKER_URL_FILE AMQP_URL
export BROKER_URL=sqlite:$work/queue.db QUEUE=job1 RUST_LOG=warn WQ_CACHE_DIR=$work/cache
free_port() {
    build/venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

"$binary" queue declare >/dev/null
# start_worker PORT
start_worker() {
    "$binary" work "$guest" --forever --concurrency 2 --max-attempts 2 --backoff-initial 1s --listen "127.0.0.1:$1" \
        --result none >>"$work/worker.log" 2>&1 &
    children+=($!)
}

first=$(free_port)
second=$(free_port)
server=$(free_port)
cat >"$work/prometheus.yml" <<YAML
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [$PWD/deploy/monitoring/alerts.yaml]
scrape_configs:
  - job_name: wq-run
    static_configs:
      - {targets: ["127.0.0.1:$first"], labels: {instance: worker-1}}
      - {targets: ["127.0.0.1:$second"], labels: {instance: worker-2}}
YAML
prometheus --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/data" --web.listen-address="127.0.0.1:$server" \
    --log.level=error >"$work/prometheus.log" 2>&1 &
children+=($!)

if [ -n "$draw" ]; then
    # A guest with something to do: it takes memory and time by the digit that its message begins with.
    guest=$work/task.wat
    # shellcheck disable=SC2016  # the dollars are WebAssembly's
    sed 's|(i32.store (i32.const 4) (i32.load (i32.const 8)))|(local.set $first (i32.and (local.get $first) (i32.const 15)))\
    (drop (memory.grow (i32.mul (local.get $first) (i32.const 20))))\
    (local.set $first (i32.mul (local.get $first) (i32.const 30000000)))\
    (loop $on (br_if $on (local.tee $first (i32.sub (local.get $first) (i32.const 1)))))\
    &|' tests/guests/obey.wat >"$guest"
    start_worker "$first"
    for second_of in $(seq 180); do
        # More than one worker can do, and after a minute a second one helps.
        [ "$second_of" != 60 ] || start_worker "$second"
        bodies=()
        for _ in $(seq $((RANDOM % 4 + (second_of < 60 ? 7 : 2)))); do
            bodies+=("$((RANDOM % 9 + 1)) is a size")
        done
        [ $((RANDOM % 3)) != 0 ] || bodies+=(fails)
        [ $((RANDOM % 9)) != 0 ] || bodies+=(trap)
        [ $((RANDOM % 12)) != 0 ] || bodies+=(dead)
        "$binary" publish "${bodies[@]}" >/dev/null
        sleep 1
    done
    build/venv/bin/python scripts/draw-dashboard.py "http://127.0.0.1:$server" deploy/monitoring/dashboard.json 180 "$draw" || {
        tail -n 20 "$work/worker.log" "$work/prometheus.log" >&2
        die "cannot draw $draw"
    }
    exit 0
fi
start_worker "$first"
start_worker "$second"

# Some that succeed, some that fail, over some seconds: a rate needs two scrapes that differ.
for round in 1 2 3 4 5 6; do
    "$binary" publish "well $round" fails trap dead >/dev/null
    sleep 1
done

build/venv/bin/python - "http://127.0.0.1:$server" deploy/monitoring/dashboard.json deploy/monitoring/alerts.yaml <<'PYTHON' ||
import json
import re
import sys
import time
import urllib.parse
import urllib.request

import yaml

server, dashboard, alerts = sys.argv[1:]


def ask(query):
    with urllib.request.urlopen(f"{server}/api/v1/query?{urllib.parse.urlencode({'query': query})}", timeout=10) as answer:
        return json.load(answer)["data"]["result"]


queries = {}
for panel in json.load(open(dashboard))["panels"]:
    for target in panel.get("targets", []):
        expression = target["expr"].replace("$__rate_interval", "30s")
        queries[f"{panel['title']}: {target['legendFormat']}"] = re.sub(r'"\$\w+"', '".*"', expression)
for group in yaml.safe_load(open(alerts))["groups"]:
    for rule in group["rules"]:
        # The metrics alone: nothing is to be wrong here.
        for name in set(re.findall(r"\bwq_\w+", rule["expr"])):
            queries[f"{rule['alert']}: {name}"] = name

until = time.monotonic() + 60
missing = dict(queries)
while missing and time.monotonic() < until:
    for name, query in list(missing.items()):
        values = [sample["value"][1] for sample in ask(query)]
        if values and not all(value == "NaN" for value in values):
            del missing[name]
    time.sleep(0.5)
for name, query in missing.items():
    print(f"no data: {name}\n  {query}", file=sys.stderr)
print(f"{len(queries) - len(missing)} of {len(queries)} queries return data")
sys.exit(bool(missing))
PYTHON
    {
        tail -n 20 "$work/worker.log" "$work/prometheus.log" >&2
        die "some queries return nothing"
    }
