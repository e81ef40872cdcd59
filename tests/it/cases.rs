//! Cases: a run is saved with all that it takes to run it again, and with no secret.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::queue::{Broker, Queue, on_every_queue};
use crate::harness::{Run, eventually, guest, run, run_with, start, wq_run};

const FAST: [&str; 4] = ["--backoff-initial", "10ms", "--backoff-max", "10ms"];

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The only case of a folder.
fn only(folder: &Path) -> PathBuf {
    let names = names(folder);
    assert_eq!(names.len(), 1, "{names:?}");
    folder.join(names.first().unwrap())
}

fn read(case: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(case).unwrap()).unwrap()
}

fn exec(case: &Path, name: &str, args: &[&str]) -> Run {
    run(wq_run(&["exec", &guest(name), "--case", case.to_str().unwrap(), "--log-format", "json"]).args(args))
}

/// What `exec --case` says of the comparison.
fn said(run: &Run) -> Value {
    let mut lines = run.stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.rfind(|line| line["message"] == "case").unwrap_or_else(|| panic!("{}", run.stderr))
}

fn differences(run: &Run) -> Vec<String> {
    let said = said(run);
    let differences = said["differences"].as_array().unwrap();
    differences.iter().map(|difference| difference["what"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_recorded_case_comes_out_the_same_and_another_guest_is_told_to_differ() {
    on_every_queue(|queue| {
        for (name, isolation, code, exit_code) in [
            ("echo", "thread", 0, json!(0)),
            ("environ", "thread", 0, json!(0)),
            ("environ", "process", 0, json!(0)),
            ("reject", "process", 65, json!(3)),
            ("trap", "thread", 65, Value::Null),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let publish = ["publish", "--message-id", "m/1", "--header", "h=v", "--type", "t", "apple"];
            run(&mut queue.command(&publish)).exits(0);
            let record = folder.path().join("made/cases");
            let mut work = queue.command(&["work", &guest(name), "--max-attempts", "1", "--isolation", isolation]);
            work.args(["--record", record.to_str().unwrap(), "--max-stdout", "100000", "--", "an argument", "-x"]);
            run(&mut work).exits(code);
            let case = only(&record);
            assert_eq!(case.file_name().unwrap(), "m%2F1.1.json");
            assert_eq!(case.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(record.metadata().unwrap().permissions().mode() & 0o777, 0o700);
            let recorded = read(&case);
            assert_eq!(recorded["run"].get("exit_code").unwrap_or(&Value::Null), &exit_code, "{recorded}");
            assert_eq!(recorded["message"]["body"], "apple");
            assert_eq!(recorded["message"]["properties"]["application_headers"]["h"], "v", "{recorded}");
            assert_eq!(recorded["flags"]["args"], json!(["an argument", "-x"]));
            assert_eq!(recorded["flags"]["isolation"], isolation);
            assert_eq!(recorded["flags"]["limits"]["max-stdout"], 100_000);
            // The environment of the guest is a part of what came out.
            let again = exec(&case, name, &[]);
            again.exits(0);
            assert_eq!(said(&again)["same"], true, "{}", again.stderr);
            let all = if exit_code.is_null() {
                &["outcome", "stdout", "stderr"][..]
            } else {
                &["outcome", "exit code", "stdout", "stderr"]
            };
            assert_eq!(said(&again)["compared"], json!(all));
            if name == "environ" {
                let printed = again.out();
                for variable in ["WQ_MESSAGE_ID=m/1", "WQ_TYPE=t", "WQ_ATTEMPT=1", "WQ_MAX_ATTEMPTS=1", "an argument"] {
                    assert!(printed.contains(variable), "{variable} is not in {printed}");
                }
                assert_eq!(recorded["run"]["stdout"]["text"], printed);
            }
            let other = if name == "echo" { "nothing" } else { "echo" };
            let mended = exec(&case, other, &[]);
            mended.exits(1).says("the guest is not the one of the case");
            assert_eq!(said(&mended)["same"], false);
            assert!(differences(&mended).contains(&"stdout".to_owned()) || name == "trap", "{}", mended.stderr);
            // What is typed comes before the case.
            if name == "environ" {
                let typed = exec(&case, name, &["--", "another"]);
                assert_eq!((typed.code, differences(&typed)), (Some(1), vec!["stdout".to_owned()]));
            }
            exec(&case, other, &["--guest-digest", recorded["guest"]["digest"].as_str().unwrap()]).exits(66);
            if code == 65 {
                queue.take_dead();
            }
        }
    });
}

#[test]
fn each_attempt_has_a_case_of_its_own_and_none_replaces_another() {
    on_every_queue(|queue| {
        let folder = tempfile::tempdir().unwrap();
        let cases = folder.path().to_str().unwrap();
        let work = |attempts: &str, code| {
            let args = ["work", &guest("fail"), "--max-attempts", attempts, "--wait", "30s", "--record", cases];
            run(queue.command(&args).args(FAST)).exits(code);
        };
        queue.publish_as("m", "body");
        work("2", 75);
        work("2", 65);
        assert_eq!(names(folder.path()), BTreeSet::from(["m.1.json", "m.2.json"].map(str::to_owned)));
        for (name, attempt) in [("m.1.json", 1), ("m.2.json", 2)] {
            let case = folder.path().join(name);
            assert_eq!(read(&case)["message"]["delivery_info"]["attempt"], attempt);
            exec(&case, "fail", &[]).exits(0).says("\"same\":true");
        }
        queue.take_dead();
        // Another message with the same id.
        queue.publish_as("m", "another body");
        work("1", 65);
        assert_eq!(names(folder.path()).len(), 3);
        assert_eq!(read(&folder.path().join("m.1.json"))["message"]["body"], "body");
        queue.take_dead();
    });
}

#[test]
fn no_byte_of_a_case_is_a_secret() {
    const SECRETS: [&str; 7] = [
        "sesame-header",
        "sesame-cookie",
        "sesame-url",
        "sesame-typed",
        "sesame-inherited",
        "sesame-argument",
        "sesame-pair",
    ];
    on_every_queue(|queue| {
        for (name, flags) in [("environ", &[][..]), ("metadata", &["--metadata"][..])] {
            let folder = tempfile::tempdir().unwrap();
            let mut publish = queue.command(&["publish", "--message-id", "m", "apple"]);
            publish.args(["--header", "authorization=Bearer sesame-header", "--header", "set-cookie=sesame-cookie"]);
            publish.args(["--header", "link=https://user:sesame-url@host/x", "--header", "said=it is sesame-header"]);
            publish.args(["--header", "harmless=pear", "--correlation-id", "sesame-cookie"]);
            run(&mut publish).exits(0);
            let mut work = queue.command(&["work", &guest(name), "--record", folder.path().to_str().unwrap()]);
            work.args(flags).args(["--env", "TYPED=sesame-typed", "--env", "INHERITED"]);
            work.env("INHERITED", "sesame-inherited");
            work.args(["--", "--password", "sesame-argument", "token=sesame-pair", "postgres://u:sesame-url@db/x"]);
            let worked = run(&mut work);
            worked.exits(0);
            let case = only(folder.path());
            let bytes = std::fs::read_to_string(&case).unwrap();
            for secret in SECRETS {
                assert!(!bytes.contains(secret), "{secret} is in {bytes}");
            }
            if let Some(password) =
                queue.url().split_once('@').and_then(|(user, _)| user.rsplit(':').next().map(str::to_owned))
                && password.len() > 5
            {
                assert!(!bytes.contains(&password), "the broker's password is in {bytes}");
            }
            let recorded = read(&case);
            let headers = &recorded["message"]["properties"]["application_headers"];
            assert_eq!(
                (&headers["authorization"], &headers["harmless"]),
                (&json!("***"), &json!("pear")),
                "{recorded}"
            );
            assert_eq!(recorded["grants"]["env"], json!(["TYPED", "INHERITED"]));
            let withheld = recorded["withheld"].to_string();
            let mut told = vec![
                "header authorization",
                "header link",
                "header said",
                "property correlation_id",
                "argument 2",
                "argument 3",
                "argument 4",
            ];
            if name == "environ" {
                // It prints what it was granted, and its arguments.
                told.push("stdout");
            }
            for told in told {
                assert!(withheld.contains(told), "{told} is not in {withheld}");
            }
            // Without the values, the run differs, and the log names what was left out.
            let again = exec(&case, name, &[]);
            again.exits(1).says("--env TYPED").says("secrets were left out of the case");
        }
    });
    // With all values given again, the run is the same.
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    let folder = tempfile::tempdir().unwrap();
    queue.publish(&["apple"]);
    let grants = ["--env", "TYPED=sesame-typed", "--", "--password", "sesame-argument"];
    run(queue.command(&["work", &guest("environ"), "--record", folder.path().to_str().unwrap()]).args(grants)).exits(0);
    let case = only(folder.path());
    exec(&case, "environ", &grants[..2]).exits(1);
    let again = exec(&case, "environ", &grants);
    again.exits(0);
    assert_eq!(said(&again)["same"], true);
}

#[test]
fn a_case_grants_nothing_by_itself() {
    on_every_queue(|queue| {
        let folder = tempfile::tempdir().unwrap();
        let (granted, cases) = (folder.path().join("granted"), folder.path().join("cases"));
        std::fs::create_dir(&granted).unwrap();
        std::fs::write(granted.join("in"), "from the host").unwrap();
        let dir = format!("{}::/data:rw", granted.display());
        queue.publish_as("m", "body");
        let mut work = queue.command(&["work", &guest("files"), "--record", cases.to_str().unwrap()]);
        work.args(["--dir", &dir, "--env", "SECRET=value"]);
        run(&mut work).exits(0);
        let case = only(&cases);
        let without = exec(&case, "files", &[]);
        without.exits(1).prints("");
        for told in [&format!("--dir {dir}"), "--env SECRET"] {
            assert!(without.stderr.contains(told), "{told} is not in {}", without.stderr);
        }
        assert!(differences(&without).contains(&"exit code".to_owned()), "{}", without.stderr);
        let read_only = exec(&case, "files", &["--dir", dir.strip_suffix(":rw").unwrap()]);
        read_only.exits(1).says("--dir").prints("from the host");
        std::fs::remove_file(granted.join("out")).unwrap();
        let with = exec(&case, "files", &["--dir", &dir, "--env", "SECRET=value"]);
        with.exits(0).prints("from the host");
        assert!(!with.stderr.contains("a case grants nothing"), "{}", with.stderr);
    });
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    let folder = tempfile::tempdir().unwrap();
    queue.publish(&["apple"]);
    let record = folder.path().to_str().unwrap();
    let mut work = queue.command(&["work", &guest("echo"), "--scratch", "1MiB", "--inherit-env", "--record", record]);
    run(&mut work).exits(0);
    exec(&only(folder.path()), "echo", &[]).exits(0).says("--inherit-env --scratch 1048576");
}

#[test]
fn limits_of_a_case_hold_unless_others_are_typed() {
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    let folder = tempfile::tempdir().unwrap();
    queue.publish(&["apple"]);
    let record = folder.path().to_str().unwrap();
    run(&mut queue.command(&["work", &guest("echo"), "--max-stdout", "3", "--max-attempts", "1", "--record", record]))
        .exits(65);
    queue.take_dead();
    let case = only(folder.path());
    exec(&case, "echo", &[]).exits(0).says("\"same\":true");
    let longer = exec(&case, "echo", &["--max-stdout", "5"]);
    longer.exits(1).prints("apple");
    assert_eq!(differences(&longer), ["outcome", "exit code", "stdout"]);
}

#[test]
fn a_packed_body_and_its_metadata_come_out_the_same() {
    on_every_queue(|queue| {
        let folder = tempfile::tempdir().unwrap();
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut packed, b"unpacked").unwrap();
        let file = folder.path().join("body");
        std::fs::write(&file, packed.finish().unwrap()).unwrap();
        let cases = folder.path().join("cases");
        for (name, flag) in [("echo", "--decode"), ("metadata", "--metadata")] {
            let body = std::fs::read(&file).unwrap();
            let line = json!({
                "body": data_encoding::BASE64.encode(&body),
                "body_encoding": "base64",
                "properties": { "message_id": name, "content_encoding": "gzip" },
            });
            run_with(&mut queue.command(&["publish", "--json"]), line.to_string().as_bytes()).exits(0);
            let record = cases.join(name);
            run(&mut queue.command(&["work", &guest(name), flag, "--record", record.to_str().unwrap()])).exits(0);
            let again = exec(&only(&record), name, &[]);
            again.exits(0).says("\"same\":true");
            assert!(name != "echo" || again.out() == "unpacked", "{again:?}");
        }
    });
}

#[test]
fn a_dead_letter_is_a_case_of_what_is_known_of_it() {
    on_every_queue(|queue| {
        let publish =
            ["publish", "--message-id", "m", "--header", "authorization=sesame-1", "--header", "h=v", "apple"];
        run(&mut queue.command(&publish)).exits(0);
        run(&mut queue.command(&["work", &guest("fail"), "--max-attempts", "1"])).exits(65);
        let shown = run(&mut queue.command(&["dlq", "show", "--case", "--id", "m"]));
        let text = shown.exits(0).out();
        assert!(!text.contains("sesame-1") && text.lines().count() == 1, "{text}");
        let case: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(case["message"]["delivery_info"]["queue"], queue.name.as_str());
        assert!(!case["message"].to_string().contains("x-wq-"), "{case}");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("case.json");
        std::fs::write(&file, &text).unwrap();
        let again = exec(&file, "fail", &[]);
        again.exits(0);
        assert_eq!(said(&again)["compared"], json!(["outcome", "exit code", "stderr"]));
        // By a pipe, with a mended guest.
        let mended =
            run_with(&mut wq_run(&["exec", &guest("echo"), "--case", "-", "--log-format", "json"]), text.as_bytes());
        mended.exits(1).prints("apple").says("the guest is not the one of the case");
        assert_eq!(differences(&mended), ["outcome", "exit code", "stderr"]);
        run(&mut queue.command(&["dlq", "show", "--case", "--json"])).exits(2);
        // Two of them are no case.
        run(&mut queue.command(&["publish", "--message-id", "n", "pear"])).exits(0);
        run(&mut queue.command(&["work", &guest("fail"), "--max-attempts", "1"])).exits(65);
        let both = run(&mut queue.command(&["dlq", "show", "--case"]));
        run_with(&mut wq_run(&["exec", &guest("fail"), "--case", "-"]), &both.stdout).exits(65).says("--limit 1");
        queue.take_dead();
        queue.take_dead();
    });
}

#[test]
fn what_is_no_case_is_refused_before_anything_runs() {
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    let folder = tempfile::tempdir().unwrap();
    let cases = folder.path().join("cases");
    queue.publish(&["apple"]);
    run(&mut queue.command(&["work", &guest("echo"), "--record", cases.to_str().unwrap()])).exits(0);
    let good = std::fs::read(only(&cases)).unwrap();
    let file = folder.path().join("case.json");
    let refused = |bytes: &[u8], why: &str| {
        std::fs::write(&file, bytes).unwrap();
        exec(&file, "echo", &[]).exits(65).prints("").says(why).says("can't be used as a case");
    };
    refused(b"", "EOF");
    refused(b"\0\xff\x01garbage", "expected value");
    refused(b"{}", "version");
    refused(&good[..good.len() / 2], "EOF");
    let changed = |pointer: &str, value: Value| {
        let mut case: Value = serde_json::from_slice(&good).unwrap();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        // What is empty is left out of a case.
        case.pointer_mut(parent).unwrap()[name] = value;
        case.to_string().into_bytes()
    };
    refused(&changed("/version", 2.into()), "it was written by a newer wq-run");
    refused(&changed("/flags/limits/timeout", "9999999y".into()), "timeout");
    refused(&changed("/guest", json!({ "path": "/" })), "unknown field `path`");
    refused(&changed("/message/body_encoding", "hex".into()), "hex");
    let many = format!("{{\"version\": 1, \"x\": [{}0]}}", "0,".repeat(1_000_000));
    refused(many.as_bytes(), "values");
    // Larger than any case within these limits, and not read to its end.
    let huge = std::fs::File::create(&file).unwrap();
    huge.set_len(1 << 40).unwrap();
    drop(huge);
    exec(&file, "echo", &["--max-message", "1KiB", "--max-stdout", "1KiB"]).exits(65).says("larger than");
    std::fs::write(&file, changed("/message/body", "x".repeat(2000).into())).unwrap();
    exec(&file, "echo", &["--max-message", "1KiB"]).exits(78).says("--max-message");
    // A zero byte in an argument, as for one that is typed.
    std::fs::write(&file, changed("/flags/args", json!(["a\0b"]))).unwrap();
    exec(&file, "echo", &[]).exits(78).says("zero byte");
    exec(&folder.path().join("none.json"), "echo", &[]).exits(74).says("--case");
    // What it says of itself can do nothing to a terminal.
    std::fs::write(&file, changed("/withheld", json!(["header \u{1b}[2J\u{202e}"]))).unwrap();
    let shown = run(wq_run(&["exec", &guest("echo"), "--case", file.to_str().unwrap(), "--log-format", "text"])
        .env("NO_COLOR", "1"));
    assert!(!shown.stderr.contains(['\u{1b}', '\u{202e}']), "{:?}", shown.stderr);
}

#[test]
fn a_folder_that_cannot_be_used_is_said_before_a_message_is_taken() {
    on_every_queue(|queue| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, b"").unwrap();
        queue.publish_as("m", "body");
        for place in [file.clone(), file.join("below")] {
            let args = ["work", &guest("echo"), "--record", place.to_str().unwrap()];
            run(&mut queue.command(&args)).exits(78).says("--record").prints("");
            let args = ["check", &guest("echo"), "--record", place.to_str().unwrap()];
            let checked = run(&mut queue.command(&args));
            assert!(checked.exits(78).out().contains("cannot save cases"), "{checked:?}");
        }
        let place = folder.path().join("to/be/made");
        let checked = run(&mut queue.command(&["check", &guest("echo"), "--record", place.to_str().unwrap()]));
        assert!(checked.exits(0).out().contains("cases are saved in"), "{checked:?}");
        assert!(!place.exists());
        assert_eq!(queue.take().body, b"body");
    });
}

#[test]
fn a_case_that_cannot_be_saved_is_a_warning_once_and_its_message_is_acknowledged() {
    on_every_queue(|queue| {
        let folder = tempfile::tempdir().unwrap();
        let cases = folder.path().join("cases");
        let args = ["work", &guest("echo"), "--count", "3", "--record", cases.to_str().unwrap()];
        let mut worker = start(&mut queue.command(&args));
        worker.wait_for("\"message\":\"working\"");
        std::fs::remove_dir(&cases).unwrap();
        queue.publish(&["a", "b", "c"]);
        let worked = worker.end();
        worked.exits(0).says("\"missing\":3");
        assert_eq!(worked.stderr.matches("a case was not saved (--record)").count(), 1, "{}", worked.stderr);
        assert_eq!(worked.stdout.len(), 3);
        eventually("the queue is empty", || (queue.depth() == 0).then_some(()));
    });
}
