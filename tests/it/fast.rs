//! `--compile fast`: other compilers, whose code has the same outcomes and limits and is kept apart.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Run, component, concurrent, concurrent_guest, guest, run, run_with, wq_run};
use crate::outcomes::ENDS;

const EVENT: &str = "the guest was compiled in less time, so its code is slower (--compile fast)";

const WHERE: [&str; 2] = ["thread", "process"];

fn fast(path: &str) -> Command {
    let mut command = wq_run(&["exec", path, "--compile", "fast", "--log-format", "json"]);
    // A guest's process is killed at a system call outside the allowlist. By default, such a call only fails.
    command.env("RUST_LOG", "info").env("WQ_FAULT", "guest-process:strict");
    command
}

fn by(compiler: &str) -> String {
    format!("\"compiler\":\"{compiler}\"")
}

/// A guest of `tests/guests` with a function that nobody calls, for which Winch has no code.
fn with_a_tail_call(folder: &Path, name: &str) -> String {
    let text = std::fs::read_to_string(guest(name)).unwrap();
    let (body, end) = text.rsplit_once(')').unwrap();
    let path = folder.join(name).with_extension("wat");
    std::fs::write(&path, format!("{body}(func $again (return_call $again))){end}")).unwrap();
    path.display().to_string()
}

fn text(folder: &Path, text: &str) -> String {
    let path = folder.join("guest.wat");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn every_way_to_end_is_the_same_whichever_compiler_made_the_code() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let fuel: (&str, &[&str], &str) = ("spin", &["--fuel", "1000000"], "fuel");
    for (name, flags, outcome) in ENDS.into_iter().chain([fuel]) {
        let guests = [
            (guest(name), "winch"),
            (component(name), "winch"),
            (concurrent(name), "winch"),
            (with_a_tail_call(folder.path(), name), "cranelift-single-pass"),
        ];
        for (path, compiler) in guests {
            for isolation in WHERE {
                let ended = run(fast(&path).args(flags).args(["--isolation", isolation, "--cache-dir"]).arg(&cache));
                ended.says(&by(compiler));
                match outcome {
                    "exit" => ended.exits(1),
                    outcome => ended.says(&format!("\"outcome\":\"{outcome}\"")),
                };
            }
        }
    }
}

#[test]
fn guests_of_every_kind_do_their_work() {
    let folder = tempfile::tempdir().unwrap();
    for path in [guest("echo"), component("echo"), concurrent("echo"), with_a_tail_call(folder.path(), "echo")] {
        for isolation in WHERE {
            run_with(fast(&path).args(["--isolation", isolation]), b"whole").exits(0).prints("whole");
        }
    }
    // Each of these is made for one of the compilers.
    for (name, compiler) in [
        ("throw", "cranelift-single-pass"),
        ("drop-objects", "cranelift-single-pass"),
        ("finished-proposals", "cranelift-single-pass"),
        ("twenty-memories", "winch"),
        ("composed", "winch"),
    ] {
        run(fast(&guest(name)).args(["--isolation", "process"])).exits(0).says(&by(compiler));
    }
    let memory64 = |flags: &[&str]| run(fast(&guest("memory64")).args(flags));
    memory64(&["--max-memory-size", "64MiB"]).exits(137).says(&by("winch")).says("--max-memory-size");
    let Some(rust) = concurrent_guest() else { return };
    run(fast(&rust).args(["--", "exit", "7"])).exits(7).says(&by("winch"));
}

#[test]
fn a_guest_recurses_as_deep_as_in_optimised_code() {
    let folder = tempfile::tempdir().unwrap();
    // A frame has 32 bytes in optimised code, and the stack 512 KiB.
    let deep = r#"(module (memory (export "memory") 1)
      (func $down (param i32) (result i32)
        (if (result i32) (local.get 0)
          (then (i32.add (i32.const 1) (call $down (i32.sub (local.get 0) (i32.const 1)))))
          (else (i32.const 0))))
      (func (export "_start") (drop (call $down (i32.const DEPTH)))) MORE)"#;
    let at = |depth: &str, more: &str| text(folder.path(), &deep.replace("DEPTH", depth).replace("MORE", more));
    let optimised = |path: &str| run(&mut wq_run(&["exec", path]));
    optimised(&at("15000", "")).exits(0);
    optimised(&at("17500", "")).exits(134);
    for (more, compiler) in [("", "winch"), ("(func $f (return_call $f))", "cranelift-single-pass")] {
        for isolation in WHERE {
            run(fast(&at("15000", more)).args(["--isolation", isolation])).exits(0).says(&by(compiler));
            run(fast(&at("99000", more)).args(["--isolation", isolation])).exits(134).says("\"outcome\":\"stack\"");
        }
    }
}

#[test]
fn a_deterministic_guest_sees_one_form_of_not_a_number_from_each_compiler() {
    let folder = tempfile::tempdir().unwrap();
    // NaNs with more bits set than the canonical NaN. They are read from memory, so that no compiler can compute the result.
    let (x32, x64) = ("(f32.load (i32.const 0))", "(f64.load (i32.const 8))");
    let (x4, x2) = ("(f32x4.splat (f32.load (i32.const 0)))", "(f64x2.splat (f64.load (i32.const 8)))");
    let mut results = vec![
        format!("(f64.promote_f32 (f32.demote_f64 {x64}))"),
        format!("(f64.promote_f32 {x32})"),
        "(f64.div (f64.load (i32.const 16)) (f64.load (i32.const 16)))".to_owned(),
    ];
    for op in ["add", "sub", "mul", "div", "min", "max"] {
        results.push(format!("(f64.promote_f32 (f32.{op} {x32} (f32.const 1)))"));
        results.push(format!("(f64.{op} {x64} (f64.const 1))"));
        results.push(format!("(f64.promote_f32 (f32x4.extract_lane 2 (f32x4.{op} {x4} (f32x4.splat (f32.const 1)))))"));
        results.push(format!("(f64x2.extract_lane 1 (f64x2.{op} {x2} (f64x2.splat (f64.const 1))))"));
    }
    for op in ["sqrt", "ceil", "floor", "trunc", "nearest"] {
        results.push(format!("(f64.{op} {x64})"));
        results.push(format!("(f64x2.extract_lane 1 (f64x2.{op} {x2}))"));
    }
    let stores: String = results
        .iter()
        .enumerate()
        .map(|(number, result)| format!("(f64.store (i32.const {}) {result})", 1024 + 8 * number))
        .collect();
    let length = 8 * results.len();
    let module = |more: &str| {
        format!(
            r#"(module
              (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
              (memory (export "memory") 1)
              (data (i32.const 0) "\01\02\a0\ff\00\00\00\00\01\02\03\04\05\06\f4\ff")
              (func (export "_start") {stores}
                (i32.store (i32.const 32) (i32.const 1024)) (i32.store (i32.const 36) (i32.const {length}))
                (drop (call $fd_write (i32.const 1) (i32.const 32) (i32.const 1) (i32.const 40)))) {more})"#
        )
    };
    let canonical = 0x7ff8_0000_0000_0000_u64.to_le_bytes().repeat(results.len());
    for (more, compiler) in [("", "winch"), ("(func $f (return_call $f))", "cranelift-single-pass")] {
        let path = text(folder.path(), &module(more));
        assert!(run(&mut wq_run(&["exec", &path, "--deterministic"])).exits(0).stdout == canonical, "optimised");
        let seen = run(fast(&path).arg("--deterministic"));
        let differ: Vec<&String> = results
            .iter()
            .zip(seen.exits(0).says(&by(compiler)).stdout.chunks(8))
            .filter(|(_, bytes)| **bytes != canonical[..8])
            .map(|(result, _)| result)
            .collect();
        assert!(differ.is_empty() && seen.stdout.len() == canonical.len(), "{compiler}: {differ:#?}");
    }
}

fn entries(cache: &Path) -> Vec<PathBuf> {
    let list = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_entry = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "cwasm");
    list(cache).flat_map(|key| list(&key).collect::<Vec<_>>()).filter(is_entry).collect()
}

#[test]
fn code_of_each_compiler_has_an_entry_of_its_own_which_the_next_start_finds() {
    let folder = tempfile::tempdir().unwrap();
    let guests = [
        (guest("echo"), "winch"),
        (component("echo"), "winch"),
        (guest("throw"), "cranelift-single-pass"),
        (with_a_tail_call(folder.path(), "echo"), "cranelift-single-pass"),
    ];
    for (number, (path, compiler)) in guests.iter().enumerate() {
        let cache = folder.path().join(number.to_string());
        let again = |command: &mut Command, expected: usize| -> Run {
            // No compiler can answer within 1 ns, so the code must come from the cache.
            let found = run(command.args(["--compile-timeout", "1ns", "--cache-dir"]).arg(&cache));
            assert_eq!(entries(&cache).len(), expected, "{path}");
            found
        };
        run(wq_run(&["compile", path, "--cache-dir"]).arg(&cache)).exits(0);
        again(&mut wq_run(&["exec", path]), 1).exits(0);
        // Optimised code is not taken for it.
        again(&mut fast(path), 1).exits(66);
        let said = run(wq_run(&["compile", path, "--cache-dir"]).arg(&cache).env("WQ_COMPILE", "fast"));
        assert!(said.exits(0).out().contains(&format!("compiled fast, by {compiler}: ")), "{}", said.out());
        again(&mut fast(path), 2).exits(0).says(&by(compiler));
        again(fast(path).args(["--isolation", "process"]), 2).exits(0).says(&by(compiler));
        again(&mut wq_run(&["exec", path]), 2).exits(0);
        // Nor is fast code taken for optimised code.
        let other = folder.path().join(format!("{number}-fast"));
        run(fast(path).arg("--cache-dir").arg(&other)).exits(0).says(&by(compiler));
        run(wq_run(&["exec", path, "--compile-timeout", "1ns", "--cache-dir"]).arg(&other)).exits(66);
    }
}

#[test]
fn inspect_says_which_compiler_would_be_taken() {
    for (path, compiler) in [(guest("echo"), "winch"), (guest("throw"), "cranelift-single-pass")] {
        let told = run(&mut wq_run(&["inspect", &path])).exits(0).out();
        assert!(told.contains(&format!("fast by    {compiler} (--compile fast)\n")), "{told}");
        let told = run(&mut wq_run(&["inspect", &path, "--json"])).exits(0).out();
        let inspection: serde_json::Value = serde_json::from_str(&told).unwrap();
        assert_eq!(inspection["fast_compiler"], compiler);
    }
}

#[test]
fn a_worker_says_once_which_compiler_was_taken() {
    let folder = tempfile::tempdir().unwrap();
    let broker = format!("sqlite:{}", folder.path().join("queue").display());
    let on_queue = |args: &[&str]| {
        let mut command = wq_run(args);
        command.env("BROKER_URL", &broker).env("QUEUE", "q");
        command
    };
    run(&mut on_queue(&["queue", "declare"])).exits(0);
    for isolation in WHERE {
        let work = |flags: &[&str]| {
            run(&mut on_queue(&["publish", "1", "2", "3"])).exits(0);
            run(on_queue(&["work", &guest("line"), "--drain", "--isolation", isolation]).args(flags))
        };
        let worked = work(&["--compile", "fast"]);
        worked.exits(0).says(&by("winch")).prints("1\n2\n3\n");
        assert_eq!(worked.stderr.matches(EVENT).count(), 1, "{}", worked.stderr);
        let optimised = work(&[]);
        assert!(!optimised.exits(0).stderr.contains(EVENT), "{}", optimised.stderr);
    }
    let mut manifest = wq_run(&["manifest", "job", &guest("line"), "--drain", "--compile", "fast"]);
    let printed = run(manifest.env("BROKER_URL", "amqp://rabbitmq.example").env("QUEUE", "q"));
    assert!(printed.exits(0).out().contains("--compile=fast"), "{}", printed.out());
}
