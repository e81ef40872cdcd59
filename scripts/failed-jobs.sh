#!/usr/bin/env bash
# Shows on this machine's podman that a Job whose messages died ends as Failed, with its good messages done: a Job that drains, and
# one with a pod for each message.
#
#   scripts/failed-jobs.sh [BINARY]      default: target/debug/wq-run
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/podman-cluster.sh

binary=$(realpath "${1:-${CARGO_TARGET_DIR:-target}/debug/wq-run}")
guest=tests/guests/obey.wat
image=localhost/wq-run:failed-jobs
state=$(mktemp -d)
trap clean_up EXIT
prepare_podman
IMAGE=$image scripts/image.sh --prebuilt "$binary" >/dev/null 2>&1 || die "could not build the image"
export PATH=$state/bin:$PATH

kubectl apply --server-side -k deploy/rabbitmq
kubectl rollout status statefulset/rabbitmq --timeout=5m
unset "${!WQ_@}" BROKER_URL_FILE
# Port 5672 of this machine may be somebody else's.
BROKER_URL=amqp://wq:change-me@$(cat "$state/address-rabbitmq-service"):5672
export BROKER_URL QUEUE=job1

# ends_failed NAME DONE DEAD: what became of the Job and of its messages
ends_failed() {
    kubectl wait --for=condition=failed --timeout=5m "job/$1"
    kubectl get job "$1" --output json >"$state/status"
    grep -q 'exit status 81' "$state/status" || die "the Job $1 failed for another reason: $(cat "$state/status")"
    kubectl logs --selector "job-name=$1" --tail=-1 >"$state/log"
    grep -q "dead letter" "$state/log" || die "no pod of the Job $1 names the dead letters: $(cat "$state/log")"
    local well dead
    well=$(grep -c '^well' "$state/log" || true)
    dead=$("$binary" dlq list --json | wc -l)
    [ "$well $dead" = "$2 $3" ] || die "the Job $1 has done $well messages and left $dead dead letters, not $2 and $3"
    [ "$("$binary" queue status --json | grep -c '"ready":0')" = 1 ] || die "messages are left: $("$binary" queue status)"
    grep "dead letter" "$state/log" | tail -n 1
    echo "$1: Failed by exit status 81, $well messages done, $dead dead letters"
    "$binary" dlq purge >/dev/null
    kubectl delete job "$1"
}

bodies=()
for number in $(seq 24); do bodies+=("well $number"); done
"$binary" publish "${bodies[@]}" trap trap trap trap trap trap
"$binary" manifest job "$guest" --name=drained --drain --parallelism=2 --max-attempts=1 --result-format=lines |
    kubectl apply --server-side -f -
ends_failed drained 24 6

"$binary" publish "well 1" trap "well 2"
"$binary" manifest job "$guest" --name=counted --completions=3 --max-attempts=1 --result-format=lines |
    kubectl apply --server-side -f -
ends_failed counted 2 1
