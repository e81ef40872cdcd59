//! The part of the wall by seccomp: which system calls can be made.
//!
//! A call that is not listed does not exist (`ENOSYS`), so that the C library falls back to one that is. Calls that only an
//! attacker would make kill the process. `clone3` and `openat2` take their arguments by pointer, where no filter can look: the first
//! is not listed, and the C library uses `clone` in its place; the second opens files, which is landlock's part.

use std::collections::BTreeMap;

use libc::{c_int, c_long};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::openings::Openings;

/// Rules for each call: it matches if one of them does, or if there are none.
type Calls = BTreeMap<c_long, Vec<SeccompRule>>;

pub(super) fn restrict(openings: &Openings) -> Result<(), String> {
    let missing = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let mut filters = vec![filter(listed(HOSTILE), SeccompAction::Allow, SeccompAction::KillProcess)];
    let calls = allowed(!openings.ports.is_empty());
    // The last one: it does not allow another.
    let last = if openings.kill_at_unknown {
        filters.push(filter(listed(TRIED), SeccompAction::Allow, missing));
        calls.and_then(|mut calls| {
            calls.extend(listed(TRIED));
            filter(calls, SeccompAction::KillProcess, SeccompAction::Allow)
        })
    } else {
        calls.and_then(|calls| filter(calls, missing, SeccompAction::Allow))
    };
    filters.push(last);
    for filter in filters {
        let filter = filter.map_err(|error| error.to_string())?;
        seccompiler::apply_filter(&filter).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn listed(calls: &[c_long]) -> Calls {
    calls.iter().map(|call| (*call, Vec::new())).collect()
}

fn filter(calls: Calls, otherwise: SeccompAction, matched: SeccompAction) -> Result<BpfProgram, BackendError> {
    let target: TargetArch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(calls, otherwise, matched, target)?.try_into()
}

/// All that a run calls, and what the C library and the runtime may call on its behalf.
fn allowed(net: bool) -> Result<Calls, BackendError> {
    let mut calls = listed(ALLOWED);
    #[cfg(target_arch = "x86_64")]
    calls.extend(listed(ALLOWED_ON_X86_64));
    calls.insert(libc::SYS_clone, vec![rule([thread()?])?]);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        // All code is mapped by now, and nothing makes new code.
        calls.insert(call, vec![rule([has_none(2, libc::PROT_EXEC)?])?]);
    }
    calls.insert(libc::SYS_ioctl, one_of(1, &IOCTLS)?);
    calls.insert(libc::SYS_fcntl, one_of(1, &FCNTLS)?);
    calls.insert(libc::SYS_prctl, one_of(0, &[libc::PR_SET_NAME])?);
    let no_pointer = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    calls.insert(libc::SYS_prlimit64, vec![rule([equals(0, 0)?, no_pointer])?]);
    let own_pid = c_int::try_from(std::process::id()).unwrap_or(c_int::MAX);
    calls.insert(libc::SYS_tgkill, vec![rule([equals(0, own_pid)?])?]);
    // With this flag `sendto` and `sendmsg` connect, and landlock does not see it.
    calls.insert(libc::SYS_sendto, vec![rule([has_none(3, libc::MSG_FASTOPEN)?])?]);
    calls.insert(libc::SYS_sendmsg, vec![rule([has_none(2, libc::MSG_FASTOPEN)?])?]);
    if net {
        calls.insert(libc::SYS_socket, tcp()?);
        calls.insert(libc::SYS_setsockopt, socket_options()?);
        for call in [libc::SYS_connect, libc::SYS_bind] {
            calls.insert(call, Vec::new());
        }
    }
    Ok(calls)
}

/// No UDP, which landlock does not see; no MPTCP, which it takes for something else than TCP; no socket of the machine's
/// own, behind which a container's runtime may listen.
fn tcp() -> Result<Vec<SeccompRule>, BackendError> {
    let mut rules = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        for protocol in [0, libc::IPPROTO_TCP] {
            let kind = masked(1, !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC), libc::SOCK_STREAM)?;
            rules.push(rule([equals(0, family)?, kind, equals(2, protocol)?])?);
        }
    }
    Ok(rules)
}

fn socket_options() -> Result<Vec<SeccompRule>, BackendError> {
    SOCKET_OPTIONS.iter().map(|(level, name)| rule([equals(1, *level)?, equals(2, *name)?])).collect()
}

/// `clone` for a thread, and not for a process or a namespace.
fn thread() -> Result<SeccompCondition, BackendError> {
    const THREAD: c_int = libc::CLONE_VM | libc::CLONE_THREAD;
    const NAMESPACES: c_int = libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET;
    masked(0, THREAD | NAMESPACES, THREAD)
}

fn rule<const N: usize>(conditions: [SeccompCondition; N]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into())
}

fn one_of(argument: u8, values: &[c_int]) -> Result<Vec<SeccompRule>, BackendError> {
    values.iter().map(|value| rule([equals(argument, *value)?])).collect()
}

fn equals(argument: u8, value: c_int) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, bits(value))
}

fn has_none(argument: u8, flags: c_int) -> Result<SeccompCondition, BackendError> {
    masked(argument, flags, 0)
}

fn masked(argument: u8, mask: c_int, value: c_int) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(bits(mask)), bits(value))
}

/// The 32 bits that the kernel takes an `int` for.
fn bits(value: c_int) -> u64 {
    value.cast_unsigned().into()
}

/// Nonblocking mode, the number of bytes to read, close-on-exec, whether it is a terminal, and which pages were written.
/// `TIOCSTI` is not among them: it types into a terminal.
const IOCTLS: [c_int; 5] =
    [libc::FIONBIO as c_int, libc::FIONREAD as c_int, libc::FIOCLEX as c_int, libc::TCGETS as c_int, PAGEMAP_SCAN];
const PAGEMAP_SCAN: c_int = 0xc060_6610_u32.cast_signed();

const FCNTLS: [c_int; 5] = [libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL];

/// The options that WASI has names for. Not TCP_ULP and its like.
const SOCKET_OPTIONS: [(c_int, c_int); 11] = [
    (libc::SOL_SOCKET, libc::SO_REUSEADDR),
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_RCVBUF),
    (libc::SOL_SOCKET, libc::SO_SNDBUF),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::IPPROTO_IP, libc::IP_TTL),
    (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
    (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
];

/// On both architectures.
const ALLOWED: &[c_long] = &[
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Threads, signals, time.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    // Waiting.
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_ppoll,
    // Files and folders.
    libc::SYS_close,
    libc::SYS_faccessat,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getdents64,
    libc::SYS_linkat,
    libc::SYS_lseek,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_write,
    libc::SYS_writev,
    // Sockets that are open.
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_shutdown,
];

/// The older forms of calls, which the C library uses where an architecture has them.
#[cfg(target_arch = "x86_64")]
const ALLOWED_ON_X86_64: &[c_long] = &[
    libc::SYS_access,
    libc::SYS_epoll_wait,
    libc::SYS_getdents,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
];

/// Calls that the C library tries first and has a substitute for.
const TRIED: &[c_long] = &[libc::SYS_clone3];

/// Other programs, other processes' memory, other namespaces, and the kernel's own inside.
const HOSTILE: &[c_long] = &[
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_delete_module,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_finit_module,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_can_be_made_and_no_call_is_both_needed_and_hostile() {
        for net in [false, true] {
            let calls = allowed(net).unwrap();
            assert!(HOSTILE.iter().all(|call| !calls.contains_key(call)));
            assert_eq!(calls.contains_key(&libc::SYS_socket), net);
            filter(calls, SeccompAction::KillProcess, SeccompAction::Allow).unwrap();
        }
    }
}
