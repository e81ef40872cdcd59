#!/bin/sh
# Makes a root file system with RabbitMQ 4 in it, for `make test-rabbitmq4`: scripts/rabbitmq4.sh FOLDER
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

folder=${1:?names no folder}
[ ! -x "$folder/usr/lib/rabbitmq/bin/rabbitmq-server" ] || exit 0
need_podman
scripts/base-images.sh rabbitmq4
container=$(podman create docker.io/library/rabbitmq:4.0)
trap 'podman rm "$container" >/dev/null' EXIT
mkdir -p "$folder"
podman export "$container" | tar -x -C "$folder"
