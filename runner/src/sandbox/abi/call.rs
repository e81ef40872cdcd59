//! What the calls of all kinds of guests share: the inputs (`World`), a store with the limits set, and the result (`Ended`).

use std::sync::Arc;

use wasmtime::{Engine, ResourceLimiter, Store};
use wasmtime_wasi::WasiCtxBuilder;

use super::http::Http;
use crate::sandbox::world::grants::Net;
use crate::sandbox::world::limiter::Limiter;
use crate::task::limits::Limits;

/// What one run gets.
pub struct World {
    pub wasi: WasiCtxBuilder,
    /// `None` for a module, which has no calls to open a socket or to send a request.
    pub doors: Option<Doors>,
    pub limiter: Limiter,
}

/// The ways out of the sandbox that lead to other machines.
pub struct Doors {
    pub net: Arc<Net>,
    pub http: Http,
}

/// How the guest's code came back, with what its limiter saw.
pub struct Ended {
    pub result: wasmtime::Result<()>,
    pub memory_refused: bool,
    /// How much fuel it used, if that is counted.
    pub fuel: Option<u64>,
}

impl Ended {
    /// Without a store there was no call.
    pub fn without_a_store(error: wasmtime::Error) -> Ended {
        Ended { result: Err(error), memory_refused: false, fuel: None }
    }

    pub fn of<T>(
        result: wasmtime::Result<()>,
        store: &Store<T>,
        limits: &Limits,
        limiter: impl FnOnce(&T) -> &Limiter,
    ) -> Ended {
        let left = limits.fuel.and_then(|given| Some((given, store.get_fuel().ok()?)));
        Ended {
            result,
            memory_refused: limiter(store.data()).refused(),
            fuel: left.map(|(given, left)| given.saturating_sub(left)),
        }
    }
}

/// A store for one run, with its limits set.
pub fn store<T: 'static>(
    engine: &Engine,
    state: T,
    limits: &Limits,
    limiter: impl (FnMut(&mut T) -> &mut dyn ResourceLimiter) + Send + Sync + 'static,
) -> wasmtime::Result<Store<T>> {
    let mut store = Store::try_new(engine, state)?;
    store.limiter(limiter);
    // The first deadline has to be near too: with a far one nothing would yield before it.
    store.set_epoch_deadline(1);
    store.epoch_deadline_async_yield_and_update(1);
    if let Some(fuel) = limits.fuel {
        store.set_fuel(fuel)?;
    }
    store.set_hostcall_fuel(usize::try_from(limits.hostcall).unwrap_or(usize::MAX));
    Ok(store)
}
