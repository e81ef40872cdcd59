# shellcheck shell=sh
# What the scripts share. POSIX sh, to be sourced: . scripts/lib.sh. What is there already costs nothing and says nothing.
#   need COMMAND PACKAGE...        make sure that COMMAND is there, from these Debian packages
#   need_python COMMAND PACKAGE... the same from PyPI, into build/venv, whose bin/ it puts on the PATH
#   need_python_module MODULE PACKAGE... the same for a module that has no command
#   need_podman                    podman with all that it needs to build and run; exports CONTAINERS_CONF where it must
# The last three expect to be called in the project's root folder.

die() {
    echo "${0##*/}: $*" >&2
    exit 1
}

need() {
    need_command=$1
    shift
    if command -v "$need_command" >/dev/null 2>&1; then
        return 0
    fi
    echo "there is no '$need_command'" >&2
    need_packages "$@"
    command -v "$need_command" >/dev/null 2>&1 || die "installed $*, but there is still no '$need_command'"
}

# need_packages PACKAGE... installs them whatever is there
need_packages() {
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        die "please install $* (on Debian: apt-get install $*)"
    fi
    echo "installing $*" >&2
    # The package lists may be missing or old: refresh them only when an install fails.
    need_install "$@" >/dev/null 2>&1 || {
        apt-get -qq update >&2 || die "apt-get update failed"
        need_install "$@" >/dev/null || die "could not install $*"
    }
    hash -r
}

need_install() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install -y --no-install-recommends "$@" </dev/null
}

need_python() {
    need_command=$1
    shift
    need_bin=$(pwd)/build/venv/bin
    case :$PATH: in
        *":$need_bin:"*) ;;
        *) PATH=$need_bin:$PATH && export PATH ;;
    esac
    # Only what build/venv has counts, so that everybody gets the versions that the scripts name.
    if [ -x "$need_bin/$need_command" ]; then
        return 0
    fi
    if [ ! -x "$need_bin/pip" ]; then
        need python3 python3 python3-venv
        # Debian's python3 comes without the module that fills a venv.
        python3 -c 'import ensurepip' 2>/dev/null || need_packages python3-venv
        python3 -m venv build/venv >&2 || die "could not make build/venv"
    fi
    echo "installing $* into build/venv" >&2
    "$need_bin/pip" install --quiet --disable-pip-version-check "$@" >&2 || die "could not install $* from PyPI"
    hash -r
    [ -x "$need_bin/$need_command" ] || die "installed $*, but there is still no '$need_command'"
}

need_python_module() {
    need_module=$1
    shift
    need_python pip pip
    need_bin=$(pwd)/build/venv/bin
    if "$need_bin/python" -c "import $need_module" 2>/dev/null; then
        return 0
    fi
    echo "installing $* into build/venv" >&2
    "$need_bin/python" -m pip install --quiet --disable-pip-version-check "$@" >&2 || die "could not install $* from PyPI"
    "$need_bin/python" -c "import $need_module" || die "installed $*, but there is still no module '$need_module'"
}

need_podman() {
    need podman podman runc catatonit netavark aardvark-dns iptables
    if [ "$(id -u)" = 0 ] && [ ! -d /run/systemd/system ] && [ -z "${CONTAINERS_CONF:-}" ]; then
        # No systemd: we are in a container or a small VM, where podman's defaults for control groups, limits and the
        # journal do not work. netavark calls iptables without depending on it.
        need runc runc
        need catatonit catatonit
        need iptables iptables
        [ -x /usr/lib/podman/netavark ] || need_packages netavark aardvark-dns
        mkdir -p build
        cat >build/containers.conf <<'CONF'
[containers]
default_ulimits = ["nofile=16384:16384", "nproc=32768:32768"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
CONF
        CONTAINERS_CONF=$(pwd)/build/containers.conf
        export CONTAINERS_CONF
    fi
}
