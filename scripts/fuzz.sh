#!/bin/sh
# Fuzzes every reader of foreign input, FUZZ_SECONDS each (default 30), and stops at the first crash.
#   scripts/fuzz.sh [TARGET...]
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

seconds=${FUZZ_SECONDS:-30}
build=build/fuzz

[ $# != 0 ] || for program in fuzz/targets/*.rs; do set -- "$@" "$(basename "$program" .rs)"; done

# The dev profile, and no sanitizer: one needs a nightly toolchain, and our code has hardly any `unsafe`.
fuzz() {
    command=$1
    shift
    cargo fuzz "$command" --dev --sanitizer none --target-dir "$build/target" "$@"
}

# Seeds are text in the tree, and files of bytes for libFuzzer: `00*12` in a .hex is twelve zeros, and `#` begins a comment.
# The same is done in runner/src/fuzz.rs.
corpus() {
    mkdir -p "$build/corpus/$1"
    for seed in "fuzz/seeds/$1"/*; do
        to=$build/corpus/$1/seed-$(basename "$seed")
        # shellcheck disable=SC2016
        case $seed in
            *.hex) perl -ne 's/#.*//; for (split) { ($hex, $times) = split /\*/; print pack("H*", $hex) x ($times // 1) }' "$seed" >"$to" ;;
            *) perl -0777 -pe 's/\n\z//' "$seed" >"$to" ;;
        esac
    done
}

echo "Building the fuzz targets: some minutes the first time."
for target in "$@"; do
    [ -f "fuzz/targets/$target.rs" ] || die "there is no target '$target' in fuzz/targets"
    fuzz build "$target"
done
for target in "$@"; do
    corpus "$target"
    echo "== $target, $seconds s"
    fuzz run "$target" "$build/corpus/$target" -- -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 -print_final_stats=1 -verbosity=0 ||
        die "$target crashed; the input is the newest file in fuzz/artifacts/$target. To run it again:
    cargo fuzz run --dev --sanitizer none --target-dir $build/target $target fuzz/artifacts/$target/FILE
Once it is mended, keep the input as a seed: xxd -p FILE > fuzz/seeds/$target/NAME.hex"
done
