#!/bin/bash
# The example of the Kubernetes page "Coarse Parallel Processing Using a Work Queue" on the embedded queue:
# eight messages, and two workers side by side, as the page's Job has with `parallelism: 2`. `make demo` builds
# what it needs and runs it. It fails when a message is lost, doubled, dead or left.
# `make demo BROKER=redis` (or rabbitmq, or sqs with an emulator) uses the broker that
# `docker compose --profile redis up -d` starts, or the one that BROKER_URL names. Its queue gets a name of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

# EPOCHREALTIME follows the locale, and a comma is no number.
export LC_ALL=C
fruits=(apple banana cherry date fig grape lemon melon)
guest=build/guests/processing-rust.wasm
bin=${CARGO_TARGET_DIR:-target}/debug
workers=()

main() {
    if [ ! -x "$bin/wq-run" ] || [ ! -f "$guest" ]; then
        die "wq-run or its guest is not built: run 'make demo'"
    fi
    PATH=$(cd "$bin" && pwd):$PATH
    folder=$(mktemp -d)
    trap clean_up EXIT
    # What the reader's shell has set is no part of the example.
    unset "${!WQ_@}" BROKER_URL_FILE AMQP_URL
    choose_broker "${1:-sqlite}"
    export BROKER_URL QUEUE RUST_LOG=warn WQ_LOG_FORMAT=text
    # Without user and password.
    show export BROKER_URL="${BROKER_URL/"//"*@/"//…@"}" QUEUE="$QUEUE"
    started=${EPOCHREALTIME:-$SECONDS}

    run wq-run queue declare
    run wq-run publish "${fruits[@]}"
    run wq-run queue status
    work_side_by_side 2
    run wq-run queue status

    summary
}

choose_broker() {
    QUEUE=demo-$$-$RANDOM
    dead_letters=$QUEUE.dead
    case $1 in
        sqlite) BROKER_URL="sqlite:$folder/queue.db" QUEUE=job1 dead_letters=job1.dead ;;
        redis) BROKER_URL=${BROKER_URL:-redis://localhost} ;;
        sqs)
            dead_letters=$QUEUE-dead
            # The emulator takes any keys.
            BROKER_URL=${BROKER_URL:-'sqs://us-east-1?endpoint=http://localhost:4566'}
            export AWS_ACCESS_KEY_ID="${AWS_ACCESS_KEY_ID:-test}" AWS_SECRET_ACCESS_KEY="${AWS_SECRET_ACCESS_KEY:-test}"
            ;;
        rabbitmq) BROKER_URL=${BROKER_URL:-amqp://guest:guest@localhost} ;;
        *) die "knows no broker '$1' (sqlite, redis, sqs, rabbitmq)" ;;
    esac
}

# Says a command as the reader would type it, then runs it.
run() {
    show "$@"
    "$@"
}

show() {
    local bold='' plain=''
    if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' plain=$'\e[0m'; fi
    printf '\n%s$ %s%s\n' "$bold" "$*" "$plain"
}

# Each worker is a process of its own, as each pod of a Job is.
work_side_by_side() {
    local count=$1 i failed=0
    show "wq-run work $guest --count 4 --wait 10s        # twice, at the same time"
    for ((i = 1; i <= count; i++)); do
        wq-run work "$guest" --count 4 --wait 10s >"$folder/worker-$i.out" &
        workers+=($!)
    done
    for ((i = 1; i <= count; i++)); do
        wait "${workers[i - 1]}" || failed=$?
        sed "s/^/worker $i | /" "$folder/worker-$i.out"
    done
    workers=()
    [ "$failed" = 0 ] || die "a worker ended with exit code $failed"
}

summary() {
    local left dead results seconds
    seconds=$(awk -v a="$started" -v b="${EPOCHREALTIME:-$SECONDS}" 'BEGIN { printf "%.1f", b - a }')
    left=$(messages_in "$QUEUE")
    dead=$(messages_in "$dead_letters")
    results=$(cat "$folder"/worker-*.out | wc -l | tr -d ' ')
    printf '\n%s messages in, %s results, %s left, %s dead letters, in %s seconds\n' \
        "${#fruits[@]}" "$results" "$left" "$dead" "$seconds"

    # Not only as many, but the same.
    if ! diff <(printf 'Processing %s\n' "${fruits[@]}" | sort) <(sort "$folder"/worker-*.out) >&2; then
        die "the results (>) are not those of the messages (<)"
    fi
    if [ "$left" != 0 ] || [ "$dead" != 0 ]; then die "messages are left, or died"; fi
}

# How many messages a queue holds: waiting, being worked on, waiting for another try.
messages_in() {
    local status code=0
    status=$(wq-run queue status --queue "$1" 2>"$folder/error") || code=$?
    case $code in
        0) awk '$1 ~ /^(ready|running|delayed)$/ { all += $2 } END { print all + 0 }' <<<"$status" ;;
        # 78: there is no such queue. That of the dead letters is made by the first one.
        78) echo 0 ;;
        *) cat "$folder/error" >&2 && echo '?' ;;
    esac
}

clean_up() {
    local worker
    for worker in ${workers[@]+"${workers[@]}"}; do
        kill "$worker" 2>/dev/null || true
    done
    rm -rf "$folder"
}

main "$@"
