//! Resolves the flags about the guest: its limits, its grants, where it is compiled and run.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use crate::cli;
use crate::error::Error;
use crate::sandbox::{self, Bounds, Compilation, Dir, Grants, Isolation, Keep, Loading, Stderr, Wall};
use crate::task::limits::Limits;

/// The forms of `--dir`.
const DIR: &str = "HOST, HOST::GUEST, and with :ro or :rw behind that; two colons separate the two folders";

/// In bytes. A smaller stack is too small for the first call of any program; a larger one would have to be there for each guest
/// that runs.
const STACKS: RangeInclusive<u64> = 16 << 10..=64 << 20;

/// More memory than the compiler takes for the smallest guest. In bytes.
const LEAST_COMPILE_MEMORY: u64 = 32 << 20;

/// What even `--inherit-env` keeps back: they hold the broker's password.
const SECRETS: [&str; 2] = ["BROKER_URL", "AMQP_URL"];

/// Where the guest is and how it is brought to run.
pub fn loading(guest: &cli::Guest, concurrency: usize) -> Result<Loading, Error> {
    Ok(Loading {
        guest: guest.path.clone(),
        digest: guest.guest_digest,
        cache: if guest.no_cache { None } else { guest.cache_dir.clone().or_else(default_cache) },
        keep: Keep::IfPossible,
        bounds: bounds(&guest.compiling)?,
        compilation: match guest.compile {
            cli::HowToCompile::Optimised => Compilation::Optimised,
            cli::HowToCompile::Fast => Compilation::Fast,
        },
        isolation: match guest.isolation {
            cli::Isolation::Thread => Isolation::Thread,
            cli::Isolation::Process => Isolation::Process,
        },
        wall: match guest.wall {
            cli::Wall::Auto => Wall::Auto,
            cli::Wall::Required => Wall::Required,
            cli::Wall::Off => Wall::Off,
        },
        debug_info: guest.debug_info,
        concurrency,
    })
}

/// The bounds of compiling.
pub fn bounds(compiling: &cli::Compiling) -> Result<Bounds, Error> {
    let memory = compiling.compile_memory.as_u64();
    if memory < LEAST_COMPILE_MEMORY {
        return Err(Error::configuration(
            format!("{memory} bytes of memory are too few for the compiler"),
            "--compile-memory (WQ_COMPILE_MEMORY) is 32MiB or more",
        ));
    }
    Ok(Bounds { timeout: compiling.compile_timeout, memory })
}

/// Where programs keep what they can make again, by the XDG base directory specification.
fn default_cache() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let caches = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")));
    caches.map(|caches| caches.join("wq-run"))
}

/// Refuses what can run nowhere.
pub fn check(guest: &cli::Guest) -> Result<(), Error> {
    if matches!((guest.wall, guest.isolation), (cli::Wall::Required, cli::Isolation::Thread)) {
        return Err(Error::configuration(
            "--wall required needs guests in separate processes",
            "add --isolation process (WQ_ISOLATION), or leave --wall out (WQ_WALL)",
        ));
    }
    check_limits(&guest.limits)?;
    let zero_byte = |text: &String| text.contains('\0');
    if guest.args.iter().chain(&guest.argv0).chain(&guest.grants.env).any(zero_byte) {
        return Err(Error::configuration(
            "arguments and variables of a guest can't hold a zero byte",
            "see --env, --argv0 and ARGS",
        ));
    }
    Ok(())
}

/// What the guest runs under.
pub fn options(guest: &cli::Guest, stderr: Stderr) -> Result<sandbox::Options, Error> {
    let (limits, grants) = (&guest.limits, &guest.grants);
    check(guest)?;
    let env = variables(grants)?;
    let dirs = grants.dir.iter().map(|entry| dir(entry)).collect::<Result<Vec<_>, _>>()?;
    if grants.deterministic {
        check_deterministic(limits.scratch.is_some(), &dirs)?;
    }
    Ok(sandbox::Options {
        limits: *limits,
        grants: Grants {
            env,
            dirs,
            net: grants.allow_net.clone(),
            http: grants.allow_http.clone(),
            ..Grants::default()
        },
        deterministic: grants.deterministic,
        argv0: guest.argv0.clone(),
        args: guest.args.clone(),
        output_is_due: matches!(guest.empty_output, cli::EmptyOutput::Fail),
        stderr,
    })
}

/// Refuses limits that no guest can run under.
fn check_limits(limits: &Limits) -> Result<(), Error> {
    if limits.timeout.is_zero() {
        return Err(Error::configuration("--timeout 0s leaves a guest no time to run", "see --timeout (WQ_TIMEOUT)"));
    }
    let stack = limits.stack;
    if !STACKS.contains(&stack) {
        return Err(Error::configuration(
            format!("a stack of {stack} bytes is too small or too large"),
            "--max-wasm-stack is from 16KiB to 64MiB",
        ));
    }
    Ok(())
}

/// The environment of the guest.
fn variables(grants: &cli::Grants) -> Result<Vec<(String, String)>, Error> {
    let mut env = if grants.inherit_env { inherited() } else { Vec::new() };
    for entry in &grants.env {
        let (name, value) = variable(entry)?;
        // wasmtime-wasi would hand on both.
        env.retain(|(inherited, _)| *inherited != name);
        env.push((name, value));
    }
    Ok(env)
}

/// Refuses grants that would show a guest a difference between two runs. wasmtime-wasi shows each file's times and inode number,
/// which can't be fixed.
pub fn check_deterministic(scratch: bool, dirs: &[Dir]) -> Result<(), Error> {
    if scratch {
        return Err(Error::configuration(
            "--scratch cannot be used with --deterministic: each new file has its own time and inode number",
            "leave one of them out; a guest can keep its data in memory",
        ));
    }
    if let Some(dir) = dirs.iter().find(|dir| dir.writable) {
        return Err(Error::configuration(
            format!(
                "--dir {} is writable, which cannot be used with --deterministic: a run would see the files of earlier runs",
                dir.host.display()
            ),
            "leave out :rw (--dir) or --deterministic",
        ));
    }
    Ok(())
}

/// What is in our environment and no secret of ours.
fn inherited() -> Vec<(String, String)> {
    let text = |value: std::ffi::OsString| value.into_string().ok();
    std::env::vars_os()
        .filter_map(|(name, value)| Some((text(name)?, text(value)?)))
        .filter(|(name, _)| !SECRETS.contains(&name.as_str()))
        .collect()
}

/// `K=V`, or `K` for the value that it has with us.
fn variable(entry: &str) -> Result<(String, String), Error> {
    let (name, value) = match entry.split_once('=') {
        Some((name, value)) => (name, Ok(value.to_owned())),
        None => (entry, std::env::var(entry)),
    };
    if name.is_empty() {
        return Err(Error::configuration(format!("`--env {entry}` has no name"), "write --env NAME=VALUE"));
    }
    match value {
        Ok(value) => Ok((name.to_owned(), value)),
        Err(_) => Err(Error::configuration(
            format!("`--env {name}` takes its value from the environment of wq-run, where it is not set or not UTF-8"),
            format!("set it, or write --env {name}=VALUE"),
        )),
    }
}

/// `HOST[::GUEST][:ro|:rw]`, wherever the folder is.
pub fn named_dir(entry: &str) -> Result<Dir, Error> {
    let refused =
        |why: &str| Err(Error::configuration(format!("`--dir {entry}` {why}"), format!("--dir is written {DIR}")));
    let (folders, mode) = match entry.rsplit_once(':') {
        Some((folders, mode @ ("ro" | "rw"))) => (folders, Some(mode)),
        _ => (entry, None),
    };
    if mode.is_some() && folders.ends_with(':') {
        return refused("has more than one colon before its mode");
    }
    let (host, guest) = match folders.split_once("::") {
        Some((_, guest)) if guest.contains("::") => return refused("has two colons more than once"),
        Some((_, guest)) if guest.starts_with(':') => return refused("has three colons in a row"),
        Some((host, guest)) => (host, guest),
        None => (folders, folders),
    };
    if host.is_empty() || guest.is_empty() {
        return refused("names no folder");
    }
    if folders.contains("::")
        && let Some((_, other)) = guest.rsplit_once(':')
        && is_like_a_mode(other)
    {
        return refused(&match mode {
            Some(mode) => format!("has two modes, `{other}` and `{mode}`"),
            None => format!("has the mode `{other}`, which does not exist"),
        });
    }
    Ok(Dir { host: host.into(), guest: guest.to_owned(), writable: mode == Some("rw") })
}

/// Whether a text looks like a mode of access in the notation of another program, such as `rwx` or Docker's `z`.
fn is_like_a_mode(text: &str) -> bool {
    (1..=3).contains(&text.len()) && text.bytes().all(|letter| b"rwoxzRWOXZ".contains(&letter))
}

/// A folder that is here.
fn dir(entry: &str) -> Result<Dir, Error> {
    let dir = named_dir(entry)?;
    let host = dir.host.display();
    // A missing grant would fail every run; better to fail before a message is taken.
    match std::fs::metadata(&dir.host) {
        Ok(metadata) if metadata.is_dir() => Ok(dir),
        Ok(_) => Err(Error::configuration(format!("`--dir {entry}`: {host} is not a folder"), "name a folder")),
        Err(error) => {
            let message = format!("`--dir {entry}`: {error}");
            Err(Error::configuration(message, what_was_meant(entry)))
        }
    }
}

/// A hint on an entry whose folder is not there. One colon may be Docker's, `HOST:GUEST[:MODE]`; a folder may have it in its name.
fn what_was_meant(entry: &str) -> String {
    let exists = "--dir names a folder that exists".to_owned();
    let Some((host, rest)) = entry.split_once(':').filter(|(host, rest)| !host.is_empty() && !rest.is_empty()) else {
        return exists;
    };
    match rest {
        "ro" | "rw" => exists,
        _ if rest.starts_with(':') => exists,
        _ if rest.split([':', ',']).all(is_like_a_mode) => {
            format!("the modes are :ro and :rw: --dir {host}:ro, or --dir {host}:rw")
        }
        _ => format!(
            "two colons separate the two folders: --dir {host}::{rest}; one colon is a part of the folder's name"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_written_as_docker_does_it_is_refused_with_our_form() {
        let hint = |entry: &str| super::dir(entry).unwrap_err().hint().unwrap();
        assert!(hint("/tmp:/data").contains("--dir /tmp::/data;"), "{}", hint("/tmp:/data"));
        assert!(hint("/tmp:/data:ro").contains("--dir /tmp::/data:ro;"), "{}", hint("/tmp:/data:ro"));
        assert!(!hint("/no/such::/data").contains("two colons"));
        // A folder of this name is that folder.
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("a:").join("b");
        std::fs::create_dir_all(&odd).unwrap();
        assert_eq!(super::dir(&odd.display().to_string()).unwrap().host, odd);
    }

    #[test]
    fn each_wrong_form_of_a_folder_has_its_hint() {
        for (entry, message, hint) in [
            ("", "names no folder", "HOST::GUEST"),
            ("::/data", "names no folder", "HOST::GUEST"),
            ("/tmp::", "names no folder", "HOST::GUEST"),
            (":rw", "names no folder", "HOST::GUEST"),
            ("/tmp::ro", "more than one colon before its mode", "HOST::GUEST"),
            ("/tmp:data", "No such file", "--dir /tmp::data;"),
            ("/tmp:data:rw", "No such file", "--dir /tmp::data:rw;"),
            ("a:b", "No such file", "--dir a::b;"),
            ("/tmp:RW", "No such file", "--dir /tmp:rw"),
            ("/tmp:ro,z", "No such file", "the modes are :ro and :rw"),
            ("/tmp:ro:rw", "No such file", "the modes are :ro and :rw"),
            ("/tmp:r", "No such file", "the modes are :ro and :rw"),
            ("/tmp::/data:rx", "mode `rx`, which does not exist", ":ro or :rw"),
            ("/tmp::/data:ro:rw", "two modes, `ro` and `rw`", ":ro or :rw"),
            ("/tmp:::/data", "three colons in a row", "two colons"),
            ("/tmp::/data::ro", "more than one colon before its mode", "two colons"),
            ("/tmp::/data::x", "two colons more than once", "two colons"),
            ("/no/such:ro", "No such file", "a folder that exists"),
            ("/no/such::/data", "No such file", "a folder that exists"),
            ("/etc/hostname", "is not a folder", "name a folder"),
        ] {
            let refused = super::dir(entry).unwrap_err();
            assert!(refused.to_string().contains(message), "{entry}: {refused}");
            assert!(refused.hint().unwrap().contains(hint), "{entry}: {:?}", refused.hint());
        }
        // A folder in the guest may be called as it likes.
        assert_eq!(named_dir("/tmp::/a:b").unwrap().guest, "/a:b");
        assert_eq!(
            named_dir("/tmp::data:rw").unwrap(),
            Dir { host: "/tmp".into(), guest: "data".into(), writable: true }
        );
    }

    #[test]
    fn folders_are_read_only_unless_told_otherwise() {
        let dir = |entry: &str| super::dir(entry).unwrap();
        assert_eq!(dir("/tmp"), Dir { host: "/tmp".into(), guest: "/tmp".into(), writable: false });
        assert_eq!(dir("/tmp::/data"), Dir { host: "/tmp".into(), guest: "/data".into(), writable: false });
        assert_eq!(dir("/tmp::/data:rw"), Dir { host: "/tmp".into(), guest: "/data".into(), writable: true });
        assert_eq!(dir("/tmp:ro"), Dir { host: "/tmp".into(), guest: "/tmp".into(), writable: false });
        for bad in ["", "::/data", "/tmp::", "/no/such/folder", "/etc/hostname"] {
            assert!(super::dir(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_variable_has_a_name_and_a_value() {
        assert_eq!(variable("A=b=c").unwrap(), ("A".into(), "b=c".into()));
        assert_eq!(variable("A=").unwrap(), ("A".into(), String::new()));
        assert!(variable("=b").is_err());
        assert!(variable("WQ_RUN_TEST_NOT_SET").is_err());
    }
}
