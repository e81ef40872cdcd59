#!/bin/bash
# Runs the tests that the example guests have, by the tools of their languages. What is not installed is left out, except in CI.
set -euo pipefail
cd "$(dirname "$0")"
tools=$(cd .. && pwd)/build/toolchains
part=$(mktemp -d)
trap 'rm -rf "$part"' EXIT

# run NAME PROGRAM COMMAND...
run() {
    local name=$1 program=$2
    shift 2
    if command -v "$program" >/dev/null; then
        echo "$name: $*"
        (cd "$name" && "$@")
    elif [ -n "${CI:-}" ]; then
        echo "guest-examples/test.sh: there is no $program to test $name with" >&2
        exit 1
    else
        echo "SKIPPED: there is no $program to test $name with" >&2
    fi
}

PATH=$tools/go/go/bin:$tools/zig/ziglang:$PATH
export GOTOOLCHAIN=local GOPROXY=off GOCACHE="$tools/go/cache"
export ZIG_GLOBAL_CACHE_DIR=$tools/zig/cache ZIG_LOCAL_CACHE_DIR=$tools/zig/cache
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS GOFLAGS GOROOT

run . cargo cargo test --quiet --locked --workspace
for name in lookup-rust api-rust; do
    run "$name" cargo cargo test --quiet --locked --target-dir ../target
done
run sum-c cc sh -c "cc -std=c11 -Wall -Wextra -Werror -o '$part/c' test.c -lm && '$part/c'"
run mandelbrot-cpp c++ sh -c "c++ -std=c++17 -Wall -Wextra -Werror -o '$part/cpp' test.cpp && '$part/cpp'"
run orders-go go go test ./...
run shrink-zig zig zig test image.zig
run invoice-js node node --test
run report-python python3 python3 -B -m unittest
if [ -f ../build/guests/geohash-assemblyscript.wasm ]; then
    GUEST=$(cd .. && pwd)/build/guests/geohash-assemblyscript.wasm
    export GUEST
    run geohash-assemblyscript node node --no-warnings --test
else
    run geohash-assemblyscript "the guest in build/guests"
fi
