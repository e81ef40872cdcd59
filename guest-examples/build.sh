#!/bin/bash
# Builds the example guests into build/guests, and puts the Rust one where deploy/job makes its ConfigMap from.
#   guest-examples/build.sh [GUEST...] [wit] [tests]
# without an argument: all guests that can be built here, and at the end which ones were left out and why. GUEST is rust, rust-0.2,
# rust-0.3, c, cpp, go, zig, js, python or assemblyscript; `wit` fills build/wit for toolchains that ask for it; `tests` are the
# tests' own guests. It installs nothing: `make guests` runs `scripts/install.sh guests` first.
set -euo pipefail
cd "$(dirname "$0")"
out=../build/guests
# Where scripts/install.sh puts what is no package of the system.
tools=$(cd .. && pwd)/build/toolchains
guests=(rust rust-0.2 rust-0.3 c cpp go zig js python assemblyscript)

main() {
    mkdir -p "$out"
    if [ $# = 0 ]; then
        build_all
        return
    fi
    for guest in "$@"; do
        case $guest in
            rust) build_rust ;;
            rust-0.2) build_rust_component lookup-rust lookup-rust ;;
            # A library's file has its crate's name.
            rust-0.3) build_rust_component api-rust api_rust ;;
            c) build_c ;;
            cpp) build_cpp ;;
            go) build_go ;;
            zig) build_zig ;;
            js) build_js ;;
            python) build_python ;;
            assemblyscript) build_assemblyscript ;;
            wit) build_wit ;;
            tests) build_tests ;;
            *) fail "there is no guest '$guest' (${guests[*]}, wit, tests)" ;;
        esac
    done
}

# All that the machine can build. What it cannot is said at the end, and is a failure only in CI.
build_all() {
    local guest log left_out=""
    log=$(mktemp)
    for guest in "${guests[@]}"; do
        # Another process, since `set -e` does nothing inside of a condition.
        if "./${0##*/}" "$guest" 2>&1 | tee "$log" >&2; then
            continue
        fi
        left_out+="  $guest: $(tail -n 1 "$log")"$'\n'
    done
    rm -f "$log"
    if [ -n "$left_out" ]; then
        printf 'NOT BUILT:\n%s' "$left_out" >&2
        [ -z "${CI:-}" ]
    fi
}

fail() {
    echo "guest-examples/build.sh: $*" >&2
    exit 1
}

build_rust() {
    cargo_wasi Cargo.toml
    cp "target/$target/release/processing-rust.wasm" "target/$target/release/echo-rust.wasm" \
        "target/$target/release/words-rust.wasm" "$out/"
    mkdir -p ../deploy/job
    cp "$out/processing-rust.wasm" ../deploy/job/task.wasm
}

build_tests() {
    local guest
    for guest in sockets concurrent fetch fetch-concurrent crash-lines; do
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

# build_rust_component FOLDER FILE: needs rustup's target wasm32-wasip2: the linker for it comes with that.
build_rust_component() {
    local sysroot
    sysroot=$(rustc --print sysroot)
    if [ ! -d "$sysroot/lib/rustlib/wasm32-wasip2/lib" ]; then
        fail "no Rust here builds components: run 'rustup target add wasm32-wasip2'"
    fi
    env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS \
        cargo build --release --locked --manifest-path "$1/Cargo.toml" --target wasm32-wasip2 --target-dir target
    cp "target/wasm32-wasip2/release/$2.wasm" "$out/$1.wasm"
}

# WASI_CC names another C compiler for WASI, for instance "python3 -m ziglang cc -target wasm32-wasi".
build_c() {
    local -a compile
    read -ra compile <<<"${WASI_CC:-clang --target=wasm32-wasi}"
    compile+=(-std=c11 -Wall -Wextra -Werror -O2 -s)
    if ! "${compile[@]}" -o "$out/processing-c.wasm" processing-c/processing.c ||
        ! "${compile[@]}" -o "$out/sum-c.wasm" sum-c/sum.c; then
        fail "the C guests need a compiler and a C library for WASI: set WASI_CC, or run 'scripts/install.sh guests-c'"
    fi
}

# WASI_CXX names another C++ compiler for WASI.
build_cpp() {
    local -a compile
    read -ra compile <<<"${WASI_CXX:-clang++ --target=wasm32-wasi}"
    if ! "${compile[@]}" -std=c++17 -Wall -Wextra -Werror -O2 -s -fno-exceptions \
        -o "$out/mandelbrot-cpp.wasm" mandelbrot-cpp/main.cpp; then
        fail "the C++ guest needs a compiler and a C++ library for WASI: set WASI_CXX, or run 'scripts/install.sh guests-cpp'"
    fi
}

build_go() {
    local go=$tools/go/go/bin/go
    [ -x "$go" ] || go=$(command -v go) || fail "there is no Go: run 'scripts/install.sh guests-go', or install Go 1.21 or later"
    # No network: the guest has no dependencies, and another version of Go is not fetched.
    (cd orders-go && env -u GOFLAGS -u GOROOT GOTOOLCHAIN=local GOPROXY=off GOCACHE="$tools/go/cache" GOOS=wasip1 GOARCH=wasm \
        "$go" build -trimpath -ldflags='-s -w' -o "../$out/orders-go.wasm" .)
}

build_zig() {
    local zig=$tools/zig/ziglang/zig
    # Another version does not understand the source: Zig's library still changes.
    [ -x "$zig" ] || zig=$(command -v zig) || fail "there is no Zig: run 'scripts/install.sh guests-zig', or install Zig 0.17"
    ZIG_GLOBAL_CACHE_DIR=$tools/zig/cache ZIG_LOCAL_CACHE_DIR=$tools/zig/cache \
        "$zig" build-exe shrink-zig/main.zig -target wasm32-wasi -O ReleaseSmall -fstrip -femit-bin="$out/shrink-zig.wasm"
}

build_js() {
    local componentize=$tools/invoice-js/node_modules/.bin/componentize-qjs
    [ -x "$componentize" ] || fail "there is no componentize-qjs: run 'scripts/install.sh guests-js'"
    build_wit
    (cd invoice-js && "$componentize" --sync --wit ../../build/wit/0.2 --world task --js main.js --module-root . \
        --output "../$out/invoice-js.wasm")
}

build_python() {
    local componentize=$tools/python/bin/componentize-py
    [ -x "$componentize" ] || fail "there is no componentize-py: run 'scripts/install.sh guests-python'"
    build_wit
    (cd report-python && "$componentize" -d ../../build/wit/0.2 -w task componentize app -o "../$out/report-python.wasm")
}

build_assemblyscript() {
    local modules=$tools/geohash-assemblyscript/node_modules
    [ -x "$modules/.bin/asc" ] || fail "there is no AssemblyScript: run 'scripts/install.sh guests-assemblyscript'"
    # The compiler looks for packages beside the source.
    local folder=$tools/geohash-assemblyscript
    rm -rf "$folder/assembly"
    cp -r geohash-assemblyscript/assembly "$folder/"
    (cd "$folder" && node_modules/.bin/asc assembly/index.ts --config node_modules/@assemblyscript/wasi-shim/asconfig.json \
        -O3 --converge --noAssert --outFile geohash-assemblyscript.wasm)
    mv "$folder/geohash-assemblyscript.wasm" "$out/"
}

# The interfaces of WASI lie among the sources that cargo downloads for wq-run: see wit/README.md.
build_wit() {
    local host sources version
    host=$(rustc -vV | sed -n 's/^host: //p')
    sources=$(cargo metadata --quiet --locked --format-version 1 --filter-platform "$host" --manifest-path ../Cargo.toml |
        grep -o '"manifest_path":"[^"]*/wasmtime-wasi-http-[0-9][^"/]*/Cargo.toml"' | cut -d '"' -f 4)
    sources=${sources%/Cargo.toml}
    [ -d "$sources/wit/deps" ] || fail "cargo has no sources of wasmtime-wasi-http, which holds the interfaces of WASI"
    for version in 0.2 0.3; do
        rm -rf "../build/wit/$version"
        mkdir -p "../build/wit/$version"
        cp "wit/$version/task.wit" "../build/wit/$version/"
    done
    cp -r "$sources/wit/deps" ../build/wit/0.2/deps
    cp -r "$sources/src/p3/wit/deps" ../build/wit/0.3/deps
}

main "$@"
