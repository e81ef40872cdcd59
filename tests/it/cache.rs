//! Where guests come from, packed and in pieces, and the cache of compiled code.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{component, guest, run, run_with, wq_run};

fn entries(cache: &Path) -> Vec<PathBuf> {
    let list = |folder: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(folder).map_or(Vec::new(), |entries| entries.flatten().map(|entry| entry.path()).collect())
    };
    let is_entry = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "cwasm");
    list(cache).iter().flat_map(|key| list(key)).filter(is_entry).collect()
}

fn exec(guest: &str, cache: &Path) -> Command {
    let mut command = wq_run(&["exec", guest, "--cache-dir"]);
    command.arg(cache);
    command
}

#[test]
fn a_guest_is_compiled_once_for_each_engine() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    for (made, path) in [guest("echo"), component("echo")].iter().enumerate() {
        for isolation in ["thread", "process", "thread"] {
            run_with(exec(path, &cache).args(["--isolation", isolation]), b"x").exits(0).prints("x");
            assert_eq!(entries(&cache).len(), made + 1);
        }
    }
    run_with(exec(&guest("echo"), &cache).args(["--fuel", "1000000"]), b"x").exits(0).prints("x");
    assert_eq!(entries(&cache).len(), 3, "code that counts fuel is other code");
    // A time stamp that does not move says that it was used and not written.
    let written = || entries(&cache).iter().map(|entry| entry.metadata().unwrap().modified().unwrap()).max();
    let before = written();
    run_with(&mut exec(&guest("echo"), &cache), b"x").exits(0);
    assert_eq!(written(), before);
}

#[test]
fn compile_makes_the_entry_that_a_worker_finds() {
    let folder = tempfile::tempdir().unwrap();
    let mut compile = wq_run(&["compile", &guest("echo"), "--cache-dir"]);
    let said = run(compile.arg(folder.path())).exits(0).out();
    let entry = entries(folder.path()).pop().expect("there is an entry");
    assert!(said.contains(&entry.display().to_string()) && said.contains("sha256:"), "{said}");
    // A valid entry is taken as it is.
    let before = entry.metadata().unwrap().modified().unwrap();
    let mut again = wq_run(&["compile", &guest("echo"), "--cache-dir"]);
    assert_eq!(run(again.arg(folder.path())).exits(0).out(), said);
    assert_eq!(entry.metadata().unwrap().modified().unwrap(), before);
    // A folder that can only be read is enough now.
    run_with(&mut exec(&guest("echo"), folder.path()), b"x").exits(0).prints("x");
    assert_eq!(entries(folder.path()), std::slice::from_ref(&entry));
    assert_eq!(entry.metadata().unwrap().modified().unwrap(), before);
    run(&mut wq_run(&["compile", &guest("echo")])).exits(78).says("--cache-dir");
    run(&mut wq_run(&["compile", &guest("echo"), "--cache-dir", "/proc/no"])).exits(74).says("--cache-dir");
}

#[test]
fn a_damaged_entry_never_runs_and_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    run_with(&mut exec(&guest("echo"), folder.path()), b"x").exits(0);
    let entry = entries(folder.path()).pop().unwrap();
    let good = std::fs::read(&entry).unwrap();
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        bytes
    };
    let damages =
        [flipped(100), flipped(good.len() / 2), flipped(good.len() - 1), good[..good.len() / 2].to_vec(), vec![]];
    for damage in damages {
        std::fs::write(&entry, &damage).unwrap();
        run_with(&mut exec(&guest("echo"), folder.path()), b"x").exits(0).prints("x").says("damaged");
        assert!(std::fs::read(&entry).unwrap() == good, "it was not made again");
    }
    // Nor one that somebody else could have written.
    std::fs::set_permissions(&entry, std::fs::Permissions::from_mode(0o666)).unwrap();
    run_with(&mut exec(&guest("echo"), folder.path()), b"x").exits(0).prints("x").says("other users can change it");
}

#[test]
fn a_large_guest_that_was_changed_is_another_one_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let path = folder.path().join("large.wasm");
    // Of the same size. The modification time is set back below, so only the change time (ctime) tells them apart.
    let large = |word: &str| {
        let padding = "x".repeat(1 << 20);
        let text = format!(
            r#"(module
              (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
              (memory (export "memory") 17)
              (data (i32.const 0) "\08\00\00\00\03\00\00\00{word}{padding}")
              (func (export "_start") (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))))"#
        );
        wat::parse_str(text).unwrap()
    };
    let write = |word: &str| std::fs::write(&path, large(word)).unwrap();
    let runs = |word: &str| {
        run(&mut exec(&path.display().to_string(), &cache)).exits(0).prints(word);
    };
    write("one");
    // What was just written is not remembered; wait until it is.
    let noted = || std::fs::read_dir(cache.join("seen")).map_or(0, Iterator::count);
    let started = std::time::Instant::now();
    while noted() == 0 {
        assert!(started.elapsed() < std::time::Duration::from_secs(30), "it is never remembered");
        runs("one");
    }
    let before = path.metadata().unwrap().modified().unwrap();
    runs("one");
    write("two");
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(before).unwrap();
    runs("two");
    // Whoever asks for a digest has the bytes read.
    let other = format!("sha256:{}", "0".repeat(64));
    let mut pinned = exec(&path.display().to_string(), &cache);
    run(pinned.args(["--guest-digest", &other])).exits(66);
}

#[test]
fn a_cache_that_can_not_be_written_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "no folder").unwrap();
    for cache in [Path::new("/proc/no-such-folder"), &file] {
        run_with(&mut exec(&guest("echo"), cache), b"x").exits(0).prints("x");
    }
    // A file that may not grow is like a disk that is full. 64 blocks are 32 KiB, less than any compiled guest.
    let cache = folder.path().join("cache");
    let mut full = Command::new("sh");
    full.args(["-c", r#"trap '' XFSZ; ulimit -f 4; exec "$@""#, "sh", env!("CARGO_BIN_EXE_wq-run"), "exec"]);
    full.args([&guest("echo"), "--cache-dir"]).arg(&cache).env_clear();
    run_with(&mut full, b"x").exits(0).prints("x");
    assert_eq!(entries(&cache), [] as [PathBuf; 0], "no piece of an entry is left behind");
}

#[test]
fn a_guest_may_come_packed_and_in_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let wasm = std::fs::read(component("echo")).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&wasm).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(wasm.as_slice(), 3).unwrap();
    let mut guests = vec![file("a.wasm.gz", &gzip), file("b.wasm.zst", &zstd)];
    for (number, piece) in zstd.chunks(zstd.len() / 3 + 1).enumerate() {
        file(&format!("pieces/c.wasm.zst.{number:03}"), piece);
    }
    guests.push(folder.path().join("pieces").display().to_string());
    guests.push(folder.path().join("pieces/c.wasm.zst").display().to_string());
    for path in &guests {
        run_with(&mut wq_run(&["exec", path]), b"x").exits(0).prints("x");
    }
    std::fs::remove_file(folder.path().join("pieces/c.wasm.zst.001")).unwrap();
    run(&mut wq_run(&["exec", &guests[2]])).exits(66).says("c.wasm.zst.001");
    run(&mut wq_run(&["exec", &file("cut.wasm.zst", &zstd[..zstd.len() / 2])])).exits(66).says("cannot unpack");
}

#[test]
fn a_guest_from_the_cache_needs_no_process_to_be_started() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let packed = folder.path().join("echo.wasm.zst");
    std::fs::write(&packed, zstd::encode_all(std::fs::read(component("echo")).unwrap().as_slice(), 3).unwrap())
        .unwrap();
    for path in [guest("echo"), component("echo"), packed.display().to_string()] {
        run(wq_run(&["compile", &path, "--cache-dir"]).arg(&cache)).exits(0);
        // No compiler can answer within 1 ns, so the code must come from the cache.
        run_with(exec(&path, &cache).args(["--compile-timeout", "1ns"]), b"x").exits(0).prints("x");
        run(wq_run(&["exec", &path, "--no-cache"]).args(["--compile-timeout", "1ns"])).exits(66);
    }
}
