#!/bin/sh
# wq-run on Redis beside a loop by the scheme of `rediswq.py` and Celery workers: a table on stdout, in about 10 minutes.
# Takes the flags of bench/redis/compare.py: --messages, --kills, --rounds, --seed.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

scripts/install.sh build redis
server=$(pwd)/build/redis/system/redis-server
[ -x "$server" ] || server=redis-server
need_python_module celery celery==5.5.3 redis==5.2.1
cargo build --locked --release -p wq-run
exec build/venv/bin/python bench/redis/compare.py --redis-server "$server" --wq-run "$(pwd)/target/release/wq-run" "$@"
