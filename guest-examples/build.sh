#!/bin/bash
# Builds the example guests into build/guests, and puts the Rust one where deploy/job makes its ConfigMap from.
#   guest-examples/build.sh [rust] [c] [tests]    without an argument: the first two; `tests` are the tests' own guests
# It installs nothing: `make guests` runs `scripts/install.sh guests-rust guests-c` first.
set -euo pipefail
cd "$(dirname "$0")"
out=../build/guests

main() {
    mkdir -p "$out"
    if [ $# = 0 ]; then set -- rust c; fi
    for guest in "$@"; do
        case $guest in
            rust) build_rust ;;
            c) build_c ;;
            tests) build_tests ;;
            *) fail "there is no guest '$guest' (rust, c, tests)" ;;
        esac
    done
}

fail() {
    echo "guest-examples/build.sh: $*" >&2
    exit 1
}

build_rust() {
    cargo_wasi Cargo.toml
    cp "target/$target/release/processing-rust.wasm" "target/$target/release/echo-rust.wasm" "$out/"
    mkdir -p ../deploy/job
    cp "$out/processing-rust.wasm" ../deploy/job/task.wasm
}

build_tests() {
    local guest
    for guest in sockets concurrent fetch fetch-concurrent; do
        cargo_wasi "../tests/guests/$guest/Cargo.toml"
        # A library's file has its crate's name.
        cp "target/$target/release/${guest/-concurrent/_concurrent}.wasm" "$out/$guest.wasm"
    done
}

# Builds the package of the manifest $1 for WASI; leaves the target's name in $target.
cargo_wasi() {
    local rustc
    # rustup's Rust first, then a distribution's, which ships the target as a package.
    for rustc in rustc /usr/bin/rustc; do
        target=$(wasi_target "$rustc") && break
    done
    if [ -z "$target" ]; then
        fail "no Rust here builds for WASI: run 'rustup target add wasm32-wasip1'," \
            "or as root on Debian 'scripts/install.sh guests-rust'"
    fi
    # Flags that somebody set for the host are none for WASI.
    env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS RUSTC="$rustc" \
        "${rustc%rustc}cargo" build --release --locked --manifest-path "$1" --target "$target" --target-dir target
}

# The name by which the compiler $1 knows WASI preview 1 (before 1.78: wasm32-wasi), if its library is there.
wasi_target() {
    local sysroot target
    sysroot=$("$1" --print sysroot 2>/dev/null) || return 1
    for target in wasm32-wasip1 wasm32-wasi; do
        if [ -d "$sysroot/lib/rustlib/$target/lib" ]; then
            echo "$target"
            return
        fi
    done
    return 1
}

# WASI_CC names another C compiler for WASI, for instance "python3 -m ziglang cc -target wasm32-wasi".
build_c() {
    local -a compile
    read -ra compile <<<"${WASI_CC:-clang --target=wasm32-wasi}"
    if ! "${compile[@]}" -std=c11 -Wall -Wextra -Werror -O2 -s -o "$out/processing-c.wasm" processing-c/processing.c; then
        fail "the C guest needs a compiler and a C library for WASI: set WASI_CC, or run 'scripts/install.sh guests-c'"
    fi
}

main "$@"
