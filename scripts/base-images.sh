#!/usr/bin/env bash
# Makes local stand-ins for the base images, from Debian packages and the Rust toolchain of this machine, for places where
# no registry of images can be reached. Elsewhere there is no need for it: podman pulls the real ones.
#
#   scripts/base-images.sh [--force] [slim] [rust] [rabbitmq4.0] [rabbitmq4.3]      default: slim rust
#
# An image that is there already, real or stand-in, is left alone unless --force is given.
# MIRROR=URL takes the packages from another Debian mirror.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

# The names as the Dockerfile and deploy/ write them.
SLIM=docker.io/library/debian:bookworm-slim
RUST=docker.io/library/rust:1.95-bookworm
RABBITMQ40=docker.io/library/rabbitmq:4.0
RABBITMQ43=docker.io/library/rabbitmq:4.3

SYSTEM_PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

force=
wanted=()
for argument in "$@"; do
    case $argument in
        --force) force=yes ;;
        slim | rust | rabbitmq4.0 | rabbitmq4.3) wanted+=("$argument") ;;
        *)
            sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2
            exit 2
            ;;
    esac
done
[ ${#wanted[@]} -gt 0 ] || wanted=(slim rust)

need_podman
need mmdebstrap mmdebstrap

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# This machine's way to the packages (a proxy, a cache), so that apt-get works in a RUN line as it does outside.
apt-config dump Acquire >"$work/acquire.conf"

# debootstrap SUITE PACKAGES [OPTION...] writes a root file system to $work/root.tar
debootstrap() {
    local suite=$1 packages=$2
    shift 2
    rm -f "$work/root.tar"
    mmdebstrap --quiet --variant=minbase --include="$packages" \
        --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --customize-hook="upload $work/acquire.conf /etc/apt/apt.conf.d/90acquire" \
        "$@" "$suite" "$work/root.tar" ${MIRROR:+"$MIRROR"}
}

# import NAME CHANGE... makes the image; each CHANGE is a line of a Dockerfile
import() {
    local name=$1 change changes=()
    shift
    for change in "$@"; do
        changes+=(--change "$change")
    done
    podman import --quiet "${changes[@]}" "$work/root.tar" "$name" >/dev/null
    rm -f "$work/root.tar"
}

make_slim() {
    # The real one lacks ca-certificates; with them, the Dockerfile needs no network.
    debootstrap bookworm ca-certificates
    import $SLIM "ENV PATH=$SYSTEM_PATH" 'CMD ["bash"]'
}

make_rust() {
    command -v rustc >/dev/null || die "needs the Rust toolchain that rust-toolchain.toml names: install it with rustup"
    local toolchain certificates=/etc/ssl/certs/ca-certificates.crt
    toolchain=$(rustc --print sysroot)
    case $(rustc --version) in
        'rustc 1.95.'*) ;;
        *) die "the image is Rust 1.95, but this machine has $(rustc --version)" ;;
    esac
    [ -s $certificates ] || need_packages ca-certificates
    # cargo in a RUN line trusts what this machine trusts; Debian's own certificates stay as they are.
    debootstrap bookworm ca-certificates,gcc,g++,libc6-dev,make,pkg-config,git \
        --customize-hook="upload $certificates /usr/local/share/build-certificates.crt" \
        --customize-hook="mkdir -p \"\$1/usr/local/cargo\" \"\$1/usr/local/rust\"" \
        --customize-hook="tar -C '$toolchain' --exclude=./share --exclude='./lib/rustlib/wasm*' -cf - . | tar -C \"\$1/usr/local/rust\" -xf -"
    import $RUST "ENV PATH=/usr/local/cargo/bin:/usr/local/rust/bin:$SYSTEM_PATH" 'ENV CARGO_HOME=/usr/local/cargo' \
        'ENV SSL_CERT_FILE=/usr/local/share/build-certificates.crt' \
        'ENV CARGO_HTTP_CAINFO=/usr/local/share/build-certificates.crt' 'CMD ["bash"]'
}

# make_rabbitmq IMAGE SUITE VERSION [OPTION...]
make_rabbitmq() {
    local image=$1 suite=$2 version=$3
    shift 3
    # Like the real one: user and group 999, configuration in conf.d, data in /var/lib/rabbitmq, the log on stdout, and
    # RABBITMQ_DEFAULT_USER and RABBITMQ_DEFAULT_PASS for the first start. Unlike it, it never runs as root.
    printf 'loopback_users.guest = false\nlog.console = true\n' >"$work/10-defaults.conf"
    # A suite goes on to the next version some day, and the image must not be called what it is not.
    # shellcheck disable=SC2016  # mmdebstrap sets $1 for its hooks
    debootstrap "$suite" rabbitmq-server "$@" \
        --customize-hook='dpkg-query --root="$1" -W -f "\${Version}\n" rabbitmq-server | grep "^'"$version"'\."' \
        --essential-hook='echo "rabbitmq:x:999:" >>"$1/etc/group"' \
        --essential-hook='echo "rabbitmq:x:999:999::/var/lib/rabbitmq:/usr/sbin/nologin" >>"$1/etc/passwd"' \
        --customize-hook='mkdir -p "$1/etc/rabbitmq/conf.d"' \
        --customize-hook="upload $work/10-defaults.conf /etc/rabbitmq/conf.d/10-defaults.conf" \
        --customize-hook='find "$1/var/lib/rabbitmq" -mindepth 1 -delete; chown -R 999:999 "$1/var/lib/rabbitmq" "$1/var/log/rabbitmq" "$1/etc/rabbitmq"'
    import "$image" "ENV PATH=/usr/lib/rabbitmq/bin:$SYSTEM_PATH" 'ENV HOME=/var/lib/rabbitmq' 'ENV LANG=C.UTF-8' \
        'ENV RABBITMQ_LOGS=-' 'USER 999:999' 'VOLUME /var/lib/rabbitmq' 'EXPOSE 5672' 'CMD ["rabbitmq-server"]'
}

make_rabbitmq40() {
    make_rabbitmq $RABBITMQ40 trixie 4.0
}

make_rabbitmq43() {
    # A mirror that is a snapshot has a Release file that has expired.
    make_rabbitmq $RABBITMQ43 sid 4.3 --aptopt='Acquire::Check-Valid-Until "false"'
}

for what in "${wanted[@]}"; do
    case $what in
        slim) name=$SLIM ;;
        rust) name=$RUST ;;
        rabbitmq4.0) name=$RABBITMQ40 ;;
        rabbitmq4.3) name=$RABBITMQ43 ;;
    esac
    if [ -z "$force" ] && podman image exists "$name"; then
        echo "$name is there"
        continue
    fi
    echo "making $name"
    "make_${what//./}"
done
