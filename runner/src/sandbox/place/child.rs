//! A process that runs guests for `--isolation process`, seen from inside: it knows of no broker.
//!
//! It is this program again, started with the compiled guest as its stdin and a socket as its stdout (`orders.rs`).

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wasmtime::Engine;

use super::ground::Ground;
use super::orders::{Order, Replies, Reply, Setup};
use super::wall::{self, Openings, Standing};
use super::{claims, probe};
use crate::sandbox::abi::engine::engine;
use crate::sandbox::abi::program::Program;
use crate::sandbox::abi::versions::version;
use crate::sandbox::isolation::Wall;
use crate::sandbox::load::cache;
use crate::sandbox::run::Core;
use crate::sandbox::spawned::{belong_to, go_first};
use crate::sandbox::wire;
use crate::sandbox::world::denials::Denials;
use crate::sandbox::world::grants::Outside;
use crate::sandbox::world::names::{Names, OfParent};
use crate::sandbox::world::options::Input;
use crate::sandbox::world::room::Room;
use crate::sandbox::world::stdio::Lines;
use crate::task::Report;

/// This process's own.
const DESCRIPTORS: &str = "/proc/self/fd";

fn receive(stream: &mut UnixStream) -> io::Result<(Order, bytes::Bytes)> {
    // The parent holds messages to their limit.
    wire::read(stream, |_| u64::MAX)
}

/// Runs guests until the parent hangs up.
///
/// # Errors
/// When this was not started by a parent, or the socket fails.
pub fn serve() -> io::Result<()> {
    let guest = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let stream = UnixStream::from(io::stdout().as_fd().try_clone_to_owned()?);
    go_first();
    let mut orders = stream.try_clone()?;
    let replies = Replies::new(stream);
    let (Order::Setup(setup), _) = receive(&mut orders)? else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no setup"));
    };
    belong_to(setup.parent)?;
    let loaded = match load(&setup, &guest) {
        Ok(loaded) => loaded,
        Err(error) => {
            replies.send(&Reply::Refused(claims::cut(error)), &[]);
            return Ok(());
        }
    };
    // Before the wall, which lets through none of the calls that make one.
    let mut ground = Ground::new()?;
    drop(guest);
    let room = Room::at(setup.room.clone());
    if setup.options.limits.scratch.is_some()
        && let Err(error) = room.enter()
    {
        let refused = format!("cannot open the folder for scratch folders: {error}");
        replies.send(&Reply::Refused(claims::cut(refused)), &[]);
        return Ok(());
    }
    // Measuring the scratch folder needs this folder. A landlock rule lasts only as long as the kernel keeps the folder that
    // the rule is about, and the kernel keeps a folder that is open.
    let descriptors = File::open(DESCRIPTORS);
    // From here on there is nothing to open and nothing to map, and still one thread.
    let (engine, program, initial_memory) = loaded;
    let standing = put_up_wall(&setup, initial_memory);
    let to_parent = replies.clone();
    let names = Names::of_parent(move |id, name| to_parent.send(&Reply::Lookup { id, name }, &[]));
    let to_parent = replies.clone();
    let denials = Denials::Parent(Arc::new(move |door, what| to_parent.send(&Reply::Denied { door, what }, &[])));
    let outside = Outside { names: Names::Parent(names.clone()), denials };
    let Setup { name, nature, options, parent, told, .. } = *setup;
    let core = match Core::new(name, nature, options, engine, program, room, outside) {
        Ok(core) => core,
        Err(error) => {
            replies.send(&Reply::Refused(format!("cannot start its clock: {error}")), &[]);
            return Ok(());
        }
    };
    replies.send(&Reply::Ready(standing), &[]);
    let (runs_tx, runs_rx) = std::sync::mpsc::channel::<Input>();
    // Reads while a guest runs, to hear of a stop and of the parent's end.
    let reader =
        std::thread::Builder::new().name("orders".into()).spawn(move || read_orders(&mut orders, &runs_tx, &names))?;
    while let Ok(input) = runs_rx.recv() {
        if let Some(attempt) = &told.attempt {
            let outcome = probe::attempt(attempt, parent, &replies);
            let (outcome, duration) = (claims::sayable(outcome), Duration::ZERO);
            let (usage, stack, is_last) = Default::default();
            replies.send(&Reply::Ended { outcome, duration, usage, stack, is_last }, &[]);
            continue;
        }
        let to_parent = replies.clone();
        let stderr = Lines::handed_on(move |bytes| to_parent.stderr(bytes), core.options.limits.stderr);
        let Report { outcome, stdout, duration, usage, stack, .. } = ground.run(&core, &input, &stderr);
        let is_last = ground.may_be_blocked(&outcome);
        replies.send(&Reply::Ended { outcome: claims::sayable(outcome), duration, usage, stack, is_last }, &stdout);
    }
    drop(descriptors);
    // Not waited for: a panic of its own is all that it could still tell.
    drop(reader);
    Ok(())
}

/// The engine, the linked guest, and what its memory has from the beginning.
fn load(setup: &Setup, guest: &File) -> Result<(Engine, Box<dyn Program>, u64), String> {
    let engine = engine(&setup.options, setup.nature, setup.tier, 1).map_err(|error| format!("{error:#}"))?;
    let compiled = cache::load(&engine, setup.nature.wasi.kind(), guest).map_err(|error| format!("{error:#}"))?;
    let program = (version(setup.nature.wasi).link)(&engine, &compiled).map_err(|error| format!("{error:#}"))?;
    Ok((engine, program, compiled.initial_memory()))
}

fn present(is_present: bool, folder: &Path) -> Vec<PathBuf> {
    if is_present { vec![folder.to_owned()] } else { Vec::new() }
}

fn put_up_wall(setup: &Setup, initial_memory: u64) -> Standing {
    if setup.wall == Wall::Off {
        return Standing::default();
    }
    let (grants, limits) = (&setup.options.grants, &setup.options.limits);
    wall::put_up(&Openings {
        dirs: &grants.dirs,
        own: present(limits.scratch.is_some(), &setup.room),
        given: [present(grants.metadata, &setup.given), present(limits.scratch.is_some(), Path::new(DESCRIPTORS))]
            .concat(),
        ports: grants.ports(),
        limits,
        stack: setup.tier.stack(limits.stack),
        initial_memory,
        kill_at_unknown: setup.told.strict,
    })
}

fn read_orders(orders: &mut UnixStream, runs: &std::sync::mpsc::Sender<Input>, names: &OfParent) {
    let mut current = CancellationToken::new();
    while let Ok((order, bytes)) = receive(orders) {
        match order {
            Order::Run { env, dirs } => {
                current = CancellationToken::new();
                // What comes here has begun: nothing waits in a child.
                let withdraw = CancellationToken::new();
                let input = Input { stdin: bytes, env, dirs, cancel: current.clone().into(), withdraw };
                if runs.send(input).is_err() {
                    return;
                }
            }
            Order::Cancel => current.cancel(),
            Order::Addresses { id, addresses } => names.answer(id, addresses),
            Order::Setup(_) => return,
        }
    }
    // The parent is gone, and with it whoever wanted the result.
    current.cancel();
}
