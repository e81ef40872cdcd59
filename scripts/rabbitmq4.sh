#!/bin/sh
# Makes a root file system with a RabbitMQ 4 in it, for `make test-rabbitmq4`: scripts/rabbitmq4.sh FOLDER [VERSION]
# VERSION is 4.0, the default, or 4.3.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

folder=${1:?names no folder}
version=${2:-4.0}
[ ! -x "$folder/usr/lib/rabbitmq/bin/rabbitmq-server" ] || exit 0
need_podman
scripts/base-images.sh "rabbitmq$version"
container=$(podman create "docker.io/library/rabbitmq:$version")
trap 'podman rm "$container" >/dev/null' EXIT
mkdir -p "$folder"
podman export "$container" | tar -x -C "$folder"
# In a container podman writes it.
[ -s "$folder/etc/hosts" ] || printf '127.0.0.1\tlocalhost\n::1\tlocalhost\n' >"$folder/etc/hosts"
