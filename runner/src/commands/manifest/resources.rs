//! What a pod asks for, and what it may take.

use std::collections::BTreeMap;

use crate::cli::kubernetes::Quantity;
use crate::config::Load;

/// What a worker takes beside its guests and messages, in bytes: 8 MiB were measured with small messages, and buffers grow to 8
/// more.
const WORKER: u64 = 64 << 20;

/// What a process for guests takes beside its guest, in bytes: 11 MiB were measured, most of it shared.
const PROCESS: u64 = 16 << 20;

/// What a start takes with a small guest, in bytes.
const START: u64 = 32 << 20;

/// What a start asks for with a guest whose size is not known.
const UNKNOWN_START: u64 = 64 << 20;

/// Bytes that the compiler takes for each of the guest's: what is asked for, and what may be taken. Between 10 and 30 were measured,
/// 25 for a component of 18 MB.
const COMPILER: u64 = 12;
const COMPILER_AT_MOST: u64 = 30;

/// In thousandths of a CPU, for each guest that runs. It says how a node that is full is shared out; there is no limit.
const CPU: u64 = 100;

/// What is asked for, for a guest of so many bytes.
pub fn requests(load: &Load, guest: Option<u64>, typed: BTreeMap<String, Quantity>) -> BTreeMap<String, Quantity> {
    let memory = match guest {
        None => UNKNOWN_START,
        Some(size) => START.saturating_add(size.saturating_mul(if load.compiles { COMPILER } else { 1 })),
    };
    let cpu = Quantity(format!("{}m", CPU.saturating_mul(load.concurrency)));
    // More than the limit is refused.
    let memory = Quantity(mebibytes(memory.min(most(load, guest)), 16));
    with_defaults(typed, [("cpu", Some(cpu)), ("memory", Some(memory))])
}

/// What may be taken, with a guest of so many bytes. No CPU: a worker that is throttled misses heartbeats.
pub fn limits(load: &Load, guest: Option<u64>, typed: BTreeMap<String, Quantity>) -> BTreeMap<String, Quantity> {
    with_defaults(typed, [("cpu", None), ("memory", Some(Quantity(mebibytes(most(load, guest), 64))))])
}

/// The memory that a pod needs at most, in bytes: to compile, and then, if its guests use all of theirs, to run.
fn most(load: &Load, guest: Option<u64>) -> u64 {
    let compiled = guest.filter(|_| load.compiles).unwrap_or(0);
    let to_compile = WORKER.saturating_add(compiled.saturating_mul(COMPILER_AT_MOST));

    let guest = load.guest_memory.saturating_add(if load.in_processes { PROCESS } else { 0 });
    // A result is there a second time while it is published.
    let run = guest.saturating_add(load.stdout.saturating_mul(2));
    let message = load.message.saturating_mul(if load.decodes { 2 } else { 1 });
    let messages = message.saturating_mul(load.prefetch);
    let to_run = WORKER.saturating_add(run.saturating_mul(load.concurrency)).saturating_add(messages);
    to_run.max(to_compile)
}

fn with_defaults(
    mut typed: BTreeMap<String, Quantity>,
    defaults: [(&str, Option<Quantity>); 2],
) -> BTreeMap<String, Quantity> {
    for (resource, quantity) in defaults {
        if let Some(quantity) = quantity {
            typed.entry(resource.to_owned()).or_insert(quantity);
        }
    }
    typed
}

/// Rounded up to a multiple of `step` MiB.
fn mebibytes(bytes: u64, step: u64) -> String {
    format!("{}Mi", bytes.div_ceil(1 << 20).next_multiple_of(step))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: Load = Load {
        concurrency: 1,
        prefetch: 1,
        guest_memory: 512 << 20,
        message: 128 << 20,
        stdout: 16 << 20,
        decodes: false,
        in_processes: false,
        compiles: true,
    };

    fn of(amounts: &BTreeMap<String, Quantity>) -> String {
        amounts.iter().map(|(name, amount)| format!("{name}={} ", amount.0)).collect::<String>().trim_end().to_owned()
    }

    #[test]
    fn the_limit_holds_the_guests_their_messages_and_their_results() {
        let limits = |load: &Load| super::limits(load, None, BTreeMap::new());
        assert_eq!(of(&limits(&DEFAULT)), "memory=768Mi");
        let four = Load { concurrency: 4, prefetch: 4, ..DEFAULT };
        assert_eq!(of(&limits(&four)), "memory=2752Mi");
        assert_eq!(of(&limits(&Load { decodes: true, in_processes: true, ..DEFAULT })), "memory=896Mi");
        let endless = Load { guest_memory: u64::MAX, concurrency: u64::MAX, ..DEFAULT };
        assert!(limits(&endless)["memory"].0.ends_with("Mi"));
    }

    #[test]
    fn the_limit_leaves_room_to_compile_the_guest_where_pods_have_to() {
        let tight = Load { guest_memory: 8 << 20, message: 1 << 20, stdout: 1 << 20, ..DEFAULT };
        let limit = |load: &Load, guest| of(&limits(load, guest, BTreeMap::new()));
        assert_eq!(limit(&tight, Some(60_000)), "memory=128Mi");
        assert_eq!(limit(&tight, Some(18 << 20)), "memory=640Mi");
        assert_eq!(limit(&Load { compiles: false, ..tight }, Some(18 << 20)), "memory=128Mi");
    }

    #[test]
    fn the_request_follows_the_guests_size_as_far_as_it_has_to_be_compiled() {
        let asked = |load: &Load, guest| of(&requests(load, guest, BTreeMap::new()));
        assert_eq!(asked(&DEFAULT, Some(60_000)), "cpu=100m memory=48Mi");
        assert_eq!(asked(&DEFAULT, Some(26 << 20)), "cpu=100m memory=352Mi");
        assert_eq!(asked(&Load { compiles: false, ..DEFAULT }, Some(26 << 20)), "cpu=100m memory=64Mi");
        assert_eq!(asked(&DEFAULT, None), "cpu=100m memory=64Mi");
        // Not more than the limit.
        let tight = Load { guest_memory: 8 << 20, message: 1 << 20, stdout: 1 << 20, compiles: false, ..DEFAULT };
        assert_eq!(asked(&tight, Some(200 << 20)), "cpu=100m memory=80Mi");
    }

    #[test]
    fn what_was_typed_stays() {
        let typed =
            BTreeMap::from([("memory".to_owned(), Quantity("1Gi".into())), ("cpu".into(), Quantity("2".into()))]);
        assert_eq!(of(&requests(&DEFAULT, None, typed.clone())), "cpu=2 memory=1Gi");
        assert_eq!(of(&limits(&DEFAULT, None, typed)), "cpu=2 memory=1Gi");
    }
}
