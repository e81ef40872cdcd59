//! Guests that attack the compiler: each is refused before a message is taken, and costs the worker nothing.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::harness::queue::on_every_queue;
use crate::harness::{Running, eventually, guest, run, start, wq_run};

/// A few hundred kilobytes, one function, that keep the compiler busy for minutes.
fn bomb(folder: &Path) -> PathBuf {
    let path = folder.join("bomb.wasm");
    let blocks = "(block (br_if 0 (local.get 0)) (local.set 0 (i32.load (local.get 0))))".repeat(40_000);
    let text = format!(r#"(module (memory (export "memory") 1) (func (param i32) {blocks}) (func (export "_start")))"#);
    std::fs::write(&path, wat::parse_str(text).unwrap()).unwrap();
    path
}

/// A few kilobytes that unpack to nearly all that a guest may have.
fn packed_bomb(folder: &Path) -> PathBuf {
    let path = folder.join("bomb.wasm.zst");
    let zeroes = b"\0asm\x01\0\0\0".chain(std::io::repeat(0).take(250 << 20));
    std::fs::write(&path, zstd::encode_all(zeroes, 1).unwrap()).unwrap();
    path
}

/// A text whose tree takes many times its size.
fn large_text(folder: &Path) -> PathBuf {
    let path = folder.join("large.wat");
    let functions = "(func (param i32) (local.set 0 (i32.add (local.get 0) (i32.const 1))))".repeat(150_000);
    std::fs::write(&path, format!("(module {functions})")).unwrap();
    path
}

fn said(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn a_guest_that_takes_for_ever_to_compile_is_refused_before_a_message_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = said(&bomb(folder.path()));
    on_every_queue(|queue| {
        queue.publish(&["untouched"]);
        let refused = run(&mut queue.command(&["work", &path, "--compile-timeout", "50ms"]));
        refused.exits(66).says("took longer than 50ms").says("--compile-timeout");
        let untouched = run(&mut queue.command(&["work", &guest("environ")])).exits(0).out();
        assert!(untouched.contains("WQ_REDELIVERED=false") && untouched.contains("WQ_ATTEMPT=1"), "{untouched:?}");
    });
}

#[test]
fn a_guest_that_takes_too_much_memory_to_compile_is_refused_before_a_message_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let packed = said(&packed_bomb(folder.path()));
    on_every_queue(|queue| {
        queue.publish(&["untouched"]);
        for isolation in ["thread", "process"] {
            let mut work = queue.command(&["work", &packed, "--compile-memory", "48MiB", "--isolation", isolation]);
            let refused = run(&mut work);
            refused.exits(66).says("needs more than 50331648 bytes of memory to be compiled");
            refused.says("--compile-memory").says("WQ_COMPILE_MEMORY");
        }
        let untouched = run(&mut queue.command(&["work", &guest("environ")])).exits(0).out();
        assert!(untouched.contains("WQ_REDELIVERED=false") && untouched.contains("WQ_ATTEMPT=1"), "{untouched:?}");
    });
    let text = said(&large_text(folder.path()));
    let cache = said(&folder.path().join("cache"));
    for args in [&["compile", &packed, "--cache-dir", &cache][..], &["inspect", &packed], &["inspect", &text]] {
        let mut command = wq_run(args);
        run(command.env("WQ_COMPILE_MEMORY", "48MiB")).exits(66).says("to be compiled").says("--compile-memory");
    }
    run(wq_run(&["exec", &guest("nothing")]).env("WQ_COMPILE_MEMORY", "1MiB")).exits(78).says("--compile-memory");
}

#[test]
fn the_time_for_compiling_covers_all_that_comes_before() {
    let folder = tempfile::tempdir().unwrap();
    // It is no valid guest, which is found out only after it has been unpacked.
    let packed = said(&packed_bomb(folder.path()));
    run(&mut wq_run(&["exec", &packed, "--compile-timeout", "20ms"])).exits(66).says("took longer than 20ms");
    run(&mut wq_run(&["inspect", &packed, "--compile-timeout", "20ms"])).exits(66).says("took longer than 20ms");
    // A file that is never there to be read.
    let pipe = folder.path().join("pipe.wasm");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    run(&mut wq_run(&["exec", &said(&pipe), "--compile-timeout", "20ms"])).exits(66).says("took longer than 20ms");
}

/// The processes that a process has started.
fn children(of: &Running) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{}/task", of.id())).into_iter().flatten().flatten();
    let children = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    children.flat_map(|ids| ids.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Starts `exec` with a guest that keeps the compiler busy, and says which process that is.
fn compiling(bomb: &Path) -> (Running, u32) {
    let mut running = start(&mut wq_run(&["exec", &said(bomb)]));
    running.write(b"");
    let child = eventually("a process compiles", || children(&running).pop());
    (running, child)
}

fn signal(process: u32, name: &str) {
    let status = std::process::Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status();
    assert!(status.unwrap().success());
}

#[test]
fn a_compiler_that_dies_refuses_its_guest() {
    let folder = tempfile::tempdir().unwrap();
    let bomb = bomb(folder.path());
    for (name, text) in [("ABRT", "the compiler failed on the guest"), ("KILL", "bytes of memory to be compiled")] {
        let (running, child) = compiling(&bomb);
        signal(child, name);
        running.end().exits(66).says(text).says("bomb.wasm");
    }
}

#[test]
fn a_compiler_does_not_outlive_the_worker() {
    let folder = tempfile::tempdir().unwrap();
    let bomb = bomb(folder.path());
    for name in ["KILL", "TERM", "INT"] {
        let (running, child) = compiling(&bomb);
        running.signal(name);
        running.end();
        // It is a zombie (`Z`) until its new parent has reaped it.
        let gone = || {
            let state = std::fs::read_to_string(format!("/proc/{child}/stat")).ok();
            state.is_none_or(|state| state.contains(") Z ")).then_some(())
        };
        eventually("the compiler is gone", gone);
    }
}

/// A guest of several megabytes, of which the compiler takes many times that.
fn large(folder: &Path) -> PathBuf {
    let path = folder.join("large.wasm");
    let function = "(func (param i32) (result i32) (i32.mul (local.get 0) (i32.add (local.get 0) (i32.const 7))))";
    let text = format!(
        r#"(module (memory (export "memory") 200) (data (i32.const 0) "{}") {} (func (export "_start")))"#,
        "x".repeat(12 << 20),
        function.repeat(2_000)
    );
    std::fs::write(&path, wat::parse_str(text).unwrap()).unwrap();
    path
}

#[test]
fn a_worker_keeps_no_more_memory_after_compiling_than_one_that_took_the_code_from_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let path = said(&large(folder.path()));
    let broker = format!("sqlite:{}", folder.path().join("queue").display());
    let of_queue = |args: &[&str]| {
        let mut command = wq_run(args);
        command.env("BROKER_URL", &broker).env("QUEUE", "q");
        command
    };
    run(&mut of_queue(&["queue", "declare"])).exits(0);
    for how in ["optimised", "fast"] {
        let cache = said(&folder.path().join(how));
        let kept = || {
            let args = ["work", &path, "--forever", "--cache-dir", &cache, "--compile", how];
            let mut worker = start(&mut of_queue(&args));
            worker.wait_for("working");
            let status = std::fs::read_to_string(format!("/proc/{}/status", worker.id())).unwrap();
            let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
            kib.and_then(|kib| kib.parse::<u64>().ok()).expect("the kernel tells")
        };
        let (compiled, found) = (kept(), kept());
        assert!(compiled * 10 <= found * 12, "{compiled} KiB after compiling, {found} KiB otherwise");
    }
}

#[test]
fn a_component_composed_of_two_with_a_memory_each_runs_within_its_limits() {
    for isolation in ["thread", "process"] {
        let exec = |flags: &[&str]| run(wq_run(&["exec", &guest("composed"), "--isolation", isolation]).args(flags));
        exec(&[]).exits(0);
        // Both memories count.
        exec(&["--max-memory-size", "128KiB"]).exits(0);
        exec(&["--max-memory-size", "127KiB"]).exits(137).says("--max-memory-size");
        exec(&["--max-instances", "1"]).exits(134).says("--max-instances");
    }
}
