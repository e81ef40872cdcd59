//! The scripts: all that is done to a queue on a server.
//!
//! Each of them is atomic. It checks that what it changes is still ours and changes it in one step, which no command of a
//! stream does.

use redis::Cmd;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    Take,
    Renew,
    Ack,
    Release,
    Retry,
    DeadLetter,
    Copy,
    Open,
    Leave,
    Declare,
    Depth,
    Look,
    Move,
    Remove,
    Delay,
    Purge,
}

macro_rules! sources {
    ($($script:ident $name:literal),* $(,)?) => {
        /// In the order of [`Script`].
        const SOURCES: &[(Script, &str)] = &[
            $((
                Script::$script,
                concat!(include_str!("scripts/prelude.lua"), include_str!(concat!("scripts/", $name, ".lua"))),
            )),*
        ];
    };
}

sources! {
    Take "take",
    Renew "renew",
    Ack "ack",
    Release "release",
    Retry "retry",
    DeadLetter "dead_letter",
    Copy "copy",
    Open "open",
    Leave "leave",
    Declare "declare",
    Depth "depth",
    Look "look",
    Move "move",
    Remove "remove",
    Delay "delay",
    Purge "purge",
}

/// The names under which a server knows the scripts.
#[derive(Clone, Debug)]
pub struct Loaded(Vec<String>);

impl Loaded {
    /// The requests that load all of them.
    pub fn loading() -> redis::Pipeline {
        let mut pipeline = redis::pipe();
        for (_, source) in SOURCES {
            pipeline.cmd("SCRIPT").arg("LOAD").arg(source);
        }
        pipeline
    }

    /// Of the answers to [`loading`](Self::loading).
    pub fn new(names: Vec<String>) -> Loaded {
        Loaded(names)
    }

    /// A call by name. `None` if the server gave no such name.
    pub fn call(&self, script: Script) -> Option<Cmd> {
        let name = self.0.get(script as usize)?;
        let mut call = redis::cmd("EVALSHA");
        call.arg(name);
        Some(call)
    }
}

/// A call by the script's text, for a server that forgot it.
pub fn spelled_out(script: Script) -> Cmd {
    let mut call = redis::cmd("EVAL");
    call.arg(SOURCES[script as usize].1);
    call
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_script_has_its_source() {
        for (number, (script, source)) in SOURCES.iter().enumerate() {
            assert_eq!(*script as usize, number);
            assert!(source.contains("local function call"));
        }
        assert_eq!(Script::Purge as usize + 1, SOURCES.len());
    }
}
