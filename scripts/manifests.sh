#!/usr/bin/env bash
# Writes the manifests in deploy/ that `wq-run manifest` prints. A test holds them to it.
#
#   scripts/manifests.sh [FOLDER]      default: deploy; WQ_RUN=PATH names another program than target/debug/wq-run
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

folder=${1:-deploy}
program=$(realpath "${WQ_RUN:-${CARGO_TARGET_DIR:-target}/debug/wq-run}") || die "wq-run is not built: run 'make build'"
mkdir -p "$folder/job" "$folder/examples"

# What the shell of whoever calls this has set is no part of an example.
unset "${!WQ_@}" BROKER_URL BROKER_URL_FILE AMQP_URL QUEUE

# example FILE ARGUMENT...
example() {
    local file=$1
    shift
    "$program" manifest "$@" >"$folder/$file" || die "could not print $file"
}

# The guest is in a ConfigMap of this name. deploy/job makes it of task.wasm; `kubectl create configmap guest
# --from-file=task.wasm` makes one too.
guest=(task.wasm --guest-from=configmap/guest)
example job/job.yaml job --name=job-wq-1 --queue=job1 --completions=8 --parallelism=2 "${guest[@]}"
example examples/drain.yaml job --name=drain --queue=job1 --drain --concurrency=2 "${guest[@]}"
example examples/worker.yaml worker --name=worker --queue=job1 --concurrency=4 --result=queue:results "${guest[@]}"
example examples/image-volume.yaml job --name=image-volume --queue=job1 --drain \
    task.wasm --guest-from=image/localhost/task:dev
# Guests of strangers: processes of their own behind a second wall that has to stand, and tight limits.
example examples/strangers.yaml worker --name=strangers --queue=job1 --isolation=process --wall=required \
    --max-memory-size=128MiB --timeout=2m --max-message=16MiB --max-stdout=4MiB --scratch=64MiB --max-attempts=2 "${guest[@]}"

# The addresses say which kind of broker it is, and what is not secret of it.
export BROKER_URL
for broker in rabbitmq=amqp://rabbitmq-service redis=redis://:password@redis sqs=sqs://eu-west-1/123456789012; do
    BROKER_URL=${broker#*=}
    name=${broker%%=*}
    example "examples/keda-jobs-$name.yaml" keda --name=keda-jobs --queue=job1 "${guest[@]}"
    example "examples/keda-workers-$name.yaml" keda --name=keda-workers --queue=job1 --forever "${guest[@]}"
done
