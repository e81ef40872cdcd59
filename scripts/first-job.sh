#!/usr/bin/env bash
# Runs the commands of the README's section "A first Job in five minutes", word for word, and looks at what they print.
#
#   scripts/first-job.sh podman [BINARY]    the pods on this machine's podman, by scripts/kubectl-on-podman.py. A BINARY that is
#                                           built already takes the place of `make image`
#   scripts/first-job.sh cluster            on the cluster that KUBECONFIG names, in the namespace of its context; whoever runs
#                                           this brings the image to its nodes: FIRST_JOB_LOAD is a command that does
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/podman-cluster.sh

FRUITS='apple banana cherry date fig grape lemon melon kiwi plum'
# For each command. Compiling takes most of it.
PATIENCE=1800

where=${1:-}
binary=${2:+$(realpath "$2")}
image=localhost/wq-run:dev
[ -z "$binary" ] || image=localhost/wq-run:first-job
state=$(mktemp -d)
# `make install` puts the program there. Rust stays where it is.
export RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup} CARGO_HOME=${CARGO_HOME:-$HOME/.cargo}
export HOME=$state/home
mkdir -p "$HOME/.local/bin" "$state/bin"

case $where in
    podman) prepare=prepare_podman ;;
    cluster)
        [ -n "${KUBECONFIG:-}" ] || die "KUBECONFIG names no cluster"
        command -v kubectl >/dev/null || die "there is no kubectl"
        prepare=true
        ;;
    *)
        sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2
        exit 2
        ;;
esac

# The commands of a section of the README: lines of its console blocks that begin with a prompt, without their comments.
commands() {
    # shellcheck disable=SC2016  # the dollar is a prompt
    sed -n "/^## $1\$/,/^## /p" README.md | sed -n '/^```console$/,/^```$/s/^\$ //p' | sed 's/  *# .*//'
}

# Takes the place of what has been done already, or would replace the reader's image.
instead() {
    case $1 in
        'make image') [ -z "$binary" ] || echo "IMAGE=$image scripts/image.sh --prebuilt $binary" ;;
        'make install '*) [ -z "$binary" ] || echo "${1%FROM=*}FROM=$image" ;;
        'make guests'*) [ ! -f deploy/job/task.wasm ] || echo true ;;
    esac
}

run() {
    local command=$1 other
    printf '$ %s\n' "$command"
    other=$(instead "$command")
    eval "${other:-$command}"
    case $command in
        *port-forward*) until_open 5672 ;;
        'make image') [ -z "${FIRST_JOB_LOAD:-}" ] || eval "$FIRST_JOB_LOAD" ;;
    esac
}

# A person takes longer to type the next line.
until_open() {
    local try
    for try in $(seq 100); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then return; fi
        sleep 0.2
    done
    die "nobody listens at port $1 after $try looks"
}

if [ "$where" = podman ] && (exec 3<>/dev/tcp/127.0.0.1/5672) 2>/dev/null; then
    die "port 5672 is taken, which the README's commands forward"
fi
trap clean_up EXIT
$prepare
# Last, since what was prepared puts itself first.
export PATH=$state/bin:$HOME/.local/bin:$PATH
mapfile -t lines < <(commands 'A first Job in five minutes')
[ ${#lines[@]} -ge 8 ] || die "found only ${#lines[@]} commands in the README"
started=$SECONDS
for line in "${lines[@]}"; do
    [ $((SECONDS - started)) -lt "$PATIENCE" ] || die "took longer than $PATIENCE s"
    run "$line" > >(tee -a "$state/printed")
    # So that what it prints stays below it.
    sleep 0.1
done
for fruit in $FRUITS; do
    [ "$(grep -cx "Processing $fruit" "$state/printed")" = 1 ] || die "'Processing $fruit' is not there once"
done
echo "The README's Job has done its ${#lines[@]} commands in $((SECONDS - started)) s"
