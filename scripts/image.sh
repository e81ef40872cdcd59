#!/usr/bin/env bash
# Builds the container image localhost/wq-run:dev.
#
#   scripts/image.sh                      compiles in the container; minutes, and needs nothing but podman
#   scripts/image.sh --prebuilt PATH      takes a binary that is there already, linked against Debian 12's libc or an older one
#
# PLATFORM=linux/arm64 or linux/amd64 makes it for that processor: compiled here, emulated nowhere.
# IMAGE=NAME gives it another name. MAX_SIZE=BYTES fails if it is larger: 40 MB if it was compiled here, and no limit for a binary that
# was there, which can be of the development profile. Base images that are here already are used as they are, the others are pulled; where
# no registry can be reached, scripts/base-images.sh makes stand-ins first.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

image=${IMAGE:-localhost/wq-run:dev}
binary=compiled
# What docs/kubernetes.md promises.
most=${MAX_SIZE:-40000000}
case ${1:-} in
    '') bases=$(sed -n 's/^FROM .*\(docker\.io[^ ]*\).*/\1/p' Dockerfile) ;;
    --prebuilt)
        [ -n "${2:-}" ] || die "--prebuilt needs the path of the binary"
        [ -f "$2" ] || die "there is no $2: build it first"
        mkdir -p build/image
        # Two that build at the same time would read each other's half of a file.
        exec 9>build/image/lock
        flock 9
        cp "$2" build/image/wq-run
        # As the release profile does; a binary of the development profile is several times larger than it need be.
        strip build/image/wq-run 2>/dev/null || true
        binary=prebuilt
        most=${MAX_SIZE:-}
        # This route does not touch the image with the compiler.
        bases=$(sed -n 's/^FROM .*\(docker\.io[^ ]*\/debian:[^ ]*\).*/\1/p' Dockerfile)
        ;;
    *)
        sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2
        exit 2
        ;;
esac

need_podman
pull=never
for base in $bases; do
    podman image exists "$base" || pull=missing
done
here=$(podman version --format '{{.Client.OsArch}}')
platform=${PLATFORM:-$here}
case $platform in
    */amd64) target=x86_64-unknown-linux-gnu ;;
    */arm64) target=aarch64-unknown-linux-gnu ;;
    *) die "PLATFORM is linux/amd64 or linux/arm64, and not $platform" ;;
esac
# For scanners: which crates are in the program. Where there is no Rust, the image has none.
mkdir -p build/image
if ! TARGET=$target python3 scripts/materials.py build/image/wq-run.cdx.json 2>build/image/materials.log; then
    rm -f build/image/wq-run.cdx.json
    echo "no bill of materials in the image: $(tail -n 1 build/image/materials.log)" >&2
fi
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
revision=$(git rev-parse --quiet --verify HEAD 2>/dev/null || echo unknown)
podman build --pull="$pull" --tag "$image" --platform "$platform" --build-arg BUILDPLATFORM="$here" --build-arg BINARY="$binary" \
    --build-arg VERSION="$version" --build-arg REVISION="$revision" . || {
    [ "$pull" = never ] || echo "If no registry can be reached, run scripts/base-images.sh first." >&2
    exit 1
}
size=$(podman image inspect --format '{{.Size}}' "$image")
echo "$image: $size bytes, user $(podman image inspect --format '{{.User}}' "$image")"
if [ -n "$most" ] && [ "$size" -gt "$most" ]; then
    {
        echo "$image has $size bytes, and may have $most. Its largest files:"
        container=$(podman create "$image")
        podman export "$container" | tar --list --verbose | sort --key 3,3 --numeric-sort --reverse | awk 'NR <= 8 { print $3, $6 }'
        podman rm "$container" >/dev/null
        echo "CONTRIBUTING.md says what their sizes were, and how scripts/sizes.py finds what has grown."
    } >&2
    exit 1
fi
