#!/bin/sh
# wq-run on an emulator of SQS beside npm's sqs-consumer: a table on stdout, in about 6 minutes.
# Takes the flags of bench/sqs/compare.py: --messages, --kills, --seed.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

scripts/install.sh build sqs
consumer=$(pwd)/build/sqs/consumer
mkdir -p "$consumer"
[ -d "$consumer/node_modules/sqs-consumer" ] ||
    npm install --prefix "$consumer" --silent --no-audit --no-fund --ignore-scripts \
        sqs-consumer@14.2.8 @aws-sdk/client-sqs@3 >&2 || die "could not install sqs-consumer from npm"
# Beside its packages, where it looks for them.
cp bench/sqs/consumer.mjs "$consumer"
cargo build --locked --release -p wq-run
exec python3 bench/sqs/compare.py --wq-run "$(pwd)/target/release/wq-run" --consumer "$consumer/consumer.mjs" "$@"
