#!/bin/bash
# The promises of wq-run on a real account of AWS, which its tests do not have: order, attempts, leases, dead letters, a worker
# that is killed, answers, and that nothing is left. Makes queues whose names begin with `wq-run-try-`, and deletes them.
#   scripts/try-sqs.sh REGION
# Needs the AWS CLI, credentials as wq-run takes them (docs/sqs.md), and the rights to make and to delete queues. Takes about three
# minutes and some hundred requests. Ends with 0 if every promise held.
#   WQ_TRY_ENDPOINT=http://127.0.0.1:4566 scripts/try-sqs.sh us-east-1    the same on an emulator
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

[ $# = 1 ] || die "needs a region: scripts/try-sqs.sh eu-west-1"
region=$1
endpoint=${WQ_TRY_ENDPOINT:-}
wq_run=${WQ_RUN:-target/debug/wq-run}
[ -x "$wq_run" ] || die "there is no $wq_run: 'make build', or name another one by WQ_RUN"
command -v aws >/dev/null || die "needs the AWS CLI"
name=wq-run-try-$$-$RANDOM
parameters="visibility_timeout=15${endpoint:+&endpoint=$endpoint}"
export BROKER_URL="sqs://$region?$parameters" QUEUE=$name WQ_LOG_FORMAT=json
unset BROKER_URL_FILE AMQP_URL
guests=tests/guests
log=$(mktemp)

sqs() {
    aws sqs --region "$region" ${endpoint:+--endpoint-url "$endpoint"} --output text "$@"
}

clean_up() {
    for queue in "$name" "$name-dead" "$name-answers" "$name.fifo" "$name-dead.fifo"; do
        url=$(sqs get-queue-url --queue-name "$queue" --query QueueUrl 2>/dev/null) || continue
        sqs delete-queue --queue-url "$url" || true
    done
    rm -f "$log"
}
trap clean_up EXIT

promise() {
    echo "--- $*"
}

# holds EXIT COMMAND...: it ends with this status.
holds() {
    local expected=$1 status=0
    shift
    "$@" >"$log.out" 2>"$log" || status=$?
    if [ "$status" != "$expected" ]; then
        cat "$log" >&2
        die "expected exit $expected, got $status: $*"
    fi
}

said() {
    grep -q -- "$1" "$log" || { cat "$log" >&2; die "never said: $1"; }
}

printed() {
    [ "$(cat "$log.out")" = "$1" ] || die "printed '$(cat "$log.out")' and not '$1'"
}

promise "queues are made, and made again without a change"
holds 0 "$wq_run" queue declare
holds 0 "$wq_run" queue declare
holds 0 env QUEUE="$name.fifo" "$wq_run" queue declare --type fifo

promise "a message reaches its guest and is done"
holds 0 "$wq_run" publish apple
holds 0 "$wq_run" work "$guests/echo.wat" --wait 20s
printed apple

promise "a body that is no text, and an empty one"
printf '\000\377' | "$wq_run" publish --file - >/dev/null
holds 0 "$wq_run" work "$guests/echo.wat" --wait 20s
[ "$(od -An -tx1 "$log.out" | tr -d ' ')" = 00ff ] || die "other bytes came back"
holds 0 "$wq_run" publish ""
holds 0 "$wq_run" work "$guests/echo.wat" --wait 20s
printed ""

promise "a failed task is tried again, then put aside with the reason"
holds 0 "$wq_run" publish poison
holds 75 "$wq_run" work "$guests/fail.wat" --max-attempts 2 --backoff-initial 1s --wait 20s
holds 65 "$wq_run" work "$guests/fail.wat" --max-attempts 2 --backoff-initial 1s --wait 30s
said '"attempt":2'
holds 0 env QUEUE="$name-dead" "$wq_run" queue get --json
grep -q '"x-wq-outcome":"exit"' "$log.out" || die "the dead letter has no reason: $(cat "$log.out")"

promise "a run that outlasts its lease three times keeps its message"
holds 0 "$wq_run" publish long
holds 65 "$wq_run" work "$guests/sleep.wat" --timeout 40s --max-attempts 1 --wait 20s
said '"outcome":"timeout"'
holds 0 env QUEUE="$name-dead" "$wq_run" queue get
printed long

promise "a killed worker's message comes back, and is counted"
holds 0 "$wq_run" publish again
WQ_FAULT=running:kill "$wq_run" work "$guests/echo.wat" --wait 20s >/dev/null 2>&1 && die "it was not killed"
holds 0 "$wq_run" work "$guests/echo.wat" --wait 60s
said '"attempt":2'
printed again

promise "a worker that is stopped while it waits takes no message along"
"$wq_run" work "$guests/echo.wat" --forever >/dev/null 2>&1 &
worker=$!
sleep 4
kill "$worker"
holds 0 "$wq_run" publish kept
wait "$worker" || true
holds 0 "$wq_run" work "$guests/echo.wat" --wait 10s
printed kept

promise "a group of a FIFO queue stays in order with several places"
holds 0 env QUEUE="$name.fifo" "$wq_run" publish a b c d e
holds 0 env QUEUE="$name.fifo" "$wq_run" work "$guests/line.wat" --drain --wait 10s --concurrency 4
printed "$(printf 'a\nb\nc\nd\ne')"

promise "nothing is left"
holds 0 "$wq_run" work "$guests/echo.wat" --drain --wait 5s
printed ""
echo "every promise held in $region"
