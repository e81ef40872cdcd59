#!/bin/sh
# Compiles a release build of wq-run, for this processor or for another one:
#
#   scripts/build-release.sh native|amd64|arm64 FILE
#
# For the other one it needs Rust's target and Debian's compiler for it, which root gets installed.
# RUSTFLAGS and CFLAGS are added to. RELR=yes packs relocations, for systems with glibc 2.36 (Debian 12) or a newer one.
set -eu
cd "$(dirname "$0")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
case ${1:-} in
    native) target=$host ;;
    amd64) target=x86_64-unknown-linux-gnu ;;
    arm64) target=aarch64-unknown-linux-gnu ;;
    *)
        sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2
        exit 2
        ;;
esac
file=${2:?names no file}
machine=${target%%-*}
sysroot=$(rustc --print sysroot)

if [ "$target" != "$host" ]; then
    [ -d "$sysroot/lib/rustlib/$target/lib" ] || rustup target add "$target"
    gcc=$machine-linux-gnu-gcc
    if ! command -v "$gcc" >/dev/null; then
        echo "installing $gcc" >&2
        # Debian's names of packages have no underscore.
        apt-get -qq update
        apt-get -qq install -y --no-install-recommends "gcc-$(echo "$machine" | tr _ -)-linux-gnu" "libc6-dev-$1-cross" >/dev/null
    fi
    name=$(echo "$target" | tr a-z- A-Z_)
    export "CARGO_TARGET_${name}_LINKER=$gcc" "CC_$(echo "$target" | tr - _)=$gcc"
fi

# The linker that comes with Rust folds functions that have the same code, for any processor: a megabyte less. For x86-64 rustc takes
# it by itself. Its path would otherwise be among the flags, which change the program.
set --
lld=$sysroot/lib/rustlib/$host/bin/gcc-ld
if [ -x "$lld/ld.lld" ] && [ "${target%-linux-gnu}" != "$target" ]; then
    [ "$machine" = x86_64 ] || set -- "-Clink-arg=-B$lld" -Clink-arg=-fuse-ld=lld
    set -- "$@" -Clink-arg=-Wl,--icf=all
    # The loader moves them by ranges: a megabyte and a half less.
    [ -z "${RELR:-}" ] || set -- "$@" -Clink-arg=-Wl,-z,pack-relative-relocs
fi
# Incremental compiling would split a crate by what was there before.
export CARGO_INCREMENTAL=0
# cargo forgets the profile's `strip` for a package that has an optimisation level of its own. STRIP=none keeps symbols.
set -- "$@" "-Cstrip=${STRIP:-symbols}"
# What is for the linker goes to this one crate, so that the others are compiled once for all.
cargo rustc --profile dist --locked -p wq-run --bin wq-run --target "$target" -- "$@"
install -D -m 755 "${CARGO_TARGET_DIR:-target}/$target/dist/wq-run" "$file"
