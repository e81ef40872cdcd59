#!/usr/bin/env bash
# Builds an image with a guest and its compiled code, for an image volume: `wq-run manifest job FILE --guest-from image/IMAGE`.
#
#   scripts/guest-image.sh GUEST [FLAG...]
#
# FLAGS are those that change the code, as the workers have them: --fuel, --deterministic, --max-wasm-stack.
# IMAGE=NAME gives it another name than localhost/FILE:dev, and WQ_RUN=IMAGE is the wq-run that compiles.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

[ -n "${1:-}" ] || die "names no guest: make guest-image GUEST=task.wasm"
guest=$1
shift
[ -f "$guest" ] || die "there is no file $guest"
wq_run=${WQ_RUN:-localhost/wq-run:dev}
file=$(basename "$guest")
image=${IMAGE:-localhost/$(printf %s "${file%%.*}" | tr '[:upper:]' '[:lower:]' | tr -c 'a-z0-9\n' -):dev}

need_podman
podman image exists "$wq_run" || die "there is no image $wq_run: see 'make image'"

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
install -m 644 "$guest" "$context/$file"
# There is no shell in the image, so that the flags have to stand in the line that runs the program.
flags=
for flag in "$@"; do
    flags+=", \"$flag\""
done
sed "s|\"/compiled/cache\"|&$flags|" deploy/guest.Dockerfile >"$context/Dockerfile"
printf '%s\n' '*' "!$file" >"$context/.dockerignore"
# The same files at the same time are the same image.
podman build --no-cache --pull=never --timestamp "${SOURCE_DATE_EPOCH:-0}" --tag "$image" --build-arg WQ_RUN="$wq_run" \
    --build-arg GUEST="$file" --file "$context/Dockerfile" "$context"
podman image inspect --format "$image: {{.Size}} bytes, {{.Digest}}" "$image"
echo "wq-run manifest job $file --guest-from=image/$image"
