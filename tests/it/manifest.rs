//! What `manifest` prints: objects that a cluster takes, with pods that do the work.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use clap::CommandFactory as _;
use data_encoding::BASE64;
use serde_json::Value;
use wq_run::cli::Cli;

use crate::harness::queue::{Queue, on_every_queue};
use crate::harness::{Run, guest, installed, page_guest, root, run, wq_run};

/// Brokers as people name them; nobody is asked for them.
const RABBITMQ: &str = "amqp://user:s3cret@rabbitmq.example:5672/jobs";
const REDIS: &str = "rediss://user:s3cret@redis.example/3?inbox=jobs";
const SQS: &str = "sqs://eu-west-1/123456789012/job1";

fn manifest(broker: &str, args: &[&str]) -> Run {
    run(wq_run(&["manifest"]).args(args).env("BROKER_URL", broker).env("QUEUE", "job1"))
}

/// The objects, by their kinds.
fn objects(run: &Run) -> Vec<Value> {
    let list: Value = serde_json::from_str(&run.exits(0).out()).unwrap();
    list["items"].as_array().unwrap().clone()
}

fn find<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind}: {objects:#?}"))
}

/// The specification of the pods of a workload.
fn pods(workload: &Value) -> &Value {
    let job = &workload["spec"]["jobTargetRef"];
    let spec = if job.is_null() { &workload["spec"] } else { job };
    &spec["template"]["spec"]
}

fn args(workload: &Value) -> Vec<String> {
    let args = pods(workload)["containers"][0]["args"].as_array().unwrap();
    args.iter().map(|arg| arg.as_str().unwrap().to_owned()).collect()
}

/// Volumes by the paths at which they are mounted.
fn volumes(workload: &Value) -> BTreeMap<String, Value> {
    let pods = pods(workload);
    let volume =
        |name: &Value| pods["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == *name).unwrap();
    let mounts = pods["containers"][0]["volumeMounts"].as_array().unwrap().iter();
    mounts.map(|mount| (mount["mountPath"].as_str().unwrap().to_owned(), volume(&mount["name"]).clone())).collect()
}

/// Writes what ConfigMaps hold into a folder, as the kubelet does.
fn mounted(objects: &[Value]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for map in objects.iter().filter(|object| object["kind"] == "ConfigMap") {
        for (key, value) in map["binaryData"].as_object().unwrap() {
            let bytes = BASE64.decode(value.as_str().unwrap().as_bytes()).unwrap();
            std::fs::write(folder.path().join(key), bytes).unwrap();
        }
    }
    folder
}

/// A guest that no packing makes small.
fn large_guest(folder: &Path) -> String {
    let mut module = wat::parse_file(guest("echo")).unwrap();
    let mut noise = 7u32;
    let mut section = vec![1, b'x'];
    section.extend((0..2_500_000).map(|_| {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (noise >> 24) as u8
    }));
    module.push(0);
    let mut length = section.len();
    while length >= 0x80 {
        module.push(length as u8 | 0x80);
        length >>= 7;
    }
    module.push(length as u8);
    module.extend(section);
    let path = folder.join("large.wasm");
    std::fs::write(&path, module).unwrap();
    path.display().to_string()
}

/// A value for a flag of `work`, as a pod could have it; `None` for those that each manifest has anyway.
fn sample(flag: &str, argument: &clap::Arg) -> Option<Vec<String>> {
    let value = match flag {
        "help" | "broker" | "queue" | "count" | "drain" | "forever" => return None,
        "cache-dir" => "/kept".to_owned(),
        "dir" => "/data::/input:rw".to_owned(),
        "env" => "GREETING=$(BROKER_URL) it's on".to_owned(),
        "allow-net" => "db:5432".to_owned(),
        "allow-http" => "example.com".to_owned(),
        "exit-map" => "10=ack,20-29=retry".to_owned(),
        "result" => "dir:/results".to_owned(),
        "guest-digest" => format!("sha256:{}", "0".repeat(64)),
        "backoff-factor" => "1.5".to_owned(),
        "compile-memory" | "max-memory-size" => "256MiB".to_owned(),
        "listen" => "0.0.0.0:9191".to_owned(),
        "record" | "termination-log" => "/data/log".to_owned(),
        _ if !argument.get_action().takes_values() => return Some(vec![format!("--{flag}")]),
        _ => {
            let possible = argument.get_possible_values();
            let named = argument.get_value_names().and_then(|names| names.first()).map(|name| name.as_str());
            match (possible.last(), named) {
                (Some(value), _) => value.get_name().to_owned(),
                (None, Some("DURATION")) => "77s".to_owned(),
                (None, Some("BYTES")) => "2MiB".to_owned(),
                (None, Some("N")) => "7".to_owned(),
                (None, _) => "name".to_owned(),
            }
        }
    };
    Some(vec![format!("--{flag}={value}")])
}

/// The flags of `work` that go together, in groups: every flag is in one of them.
fn flags() -> [Vec<String>; 2] {
    // They go with few others.
    const APART: [&str; 4] = ["deterministic", "no-cache", "dead-letter-by", "prefetch"];
    let mut command = Cli::command();
    // Hands the global flags down to the commands.
    command.build();
    let work = command.find_subcommand("work").unwrap();
    let (mut most, mut apart) = (Vec::new(), Vec::new());
    for argument in work.get_arguments() {
        let Some(flag) = argument.get_long() else { continue };
        let group = if APART.contains(&flag) { &mut apart } else { &mut most };
        group.extend(sample(flag, argument).into_iter().flatten());
    }
    [most, apart]
}

/// Command lines of `manifest` that have every flag of it, and of `work`, at least once: the broker, and the rest.
fn lines(folder: &Path) -> Vec<(&'static str, Vec<String>)> {
    let guest = guest("echo");
    let large = large_guest(folder);
    let common = "--namespace=batch --image=registry.example/wq-run:1 --broker-secret=mq/url --env-from=secret/keys \
                  --env-from=configmap/settings --service-account=worker --requests=cpu=1,memory=64Mi --limits=memory=8Gi \
                  --mount=/data=pvc/data --mount=/results=pvc/results --mount=/kept=emptydir/1Gi --mount=/ca=secret/ca \
                  --mount=/config=configmap/app --mount=/model=image/registry.example/model:1 --ttl=1h --backoff-limit=9";
    let scaling = "--messages-per-pod=3 --min-replicas=1 --max-replicas=20 --polling-interval=15s --cooldown=1m \
                   --scaler-secret=keda";
    let line = |words: &str, more: &[String]| {
        let words = words.split_whitespace().map(str::to_owned);
        words.chain(more.iter().cloned()).collect::<Vec<String>>()
    };
    let without = |flags: &[String], left_out: &[&str]| -> Vec<String> {
        let is_kept = |flag: &&String| !left_out.iter().any(|left_out| flag.starts_with(left_out));
        flags.iter().filter(is_kept).cloned().collect()
    };
    let [most, apart] = flags();
    let mut lines = Vec::new();
    for broker in ["", RABBITMQ, REDIS, SQS] {
        lines.push((broker, line(&format!("job {guest} --completions=8"), &[])));
        lines.push((broker, line(&format!("job {guest} --drain --parallelism=4"), &[])));
        lines.push((broker, line(&format!("worker {guest} --replicas=3"), &[])));
    }
    for broker in [RABBITMQ, REDIS, SQS] {
        lines.push((broker, line(&format!("keda {guest}"), &[])));
        lines.push((broker, line(&format!("keda {guest} --drain"), &[])));
        lines.push((broker, line(&format!("keda {guest} --forever"), &[])));
        let flags = without(&most, &["--result=", "--wait"]);
        lines.push((broker, line(&format!("keda {guest} --name=scaled --forever {common} {scaling}"), &flags)));
    }
    lines.push((RABBITMQ, line(&format!("job {large} --name=large --completions=2"), &[])));
    lines.push((RABBITMQ, line(&format!("worker {large} --name=large"), &[])));
    for from in ["configmap/guest", "image/registry.example/task@sha256:0123", "pvc/guests"] {
        lines.push((RABBITMQ, line(&format!("job task.wasm --guest-from={from} --count=5 --completions=3"), &[])));
    }
    lines.push((RABBITMQ, line(&format!("job {guest} --completions=8 --parallelism=4 {common}"), &most)));
    lines.push((RABBITMQ, line(&format!("job {guest} --drain {common}"), &apart)));
    let workers = common.replace(" --ttl=1h --backoff-limit=9", "");
    lines.push((RABBITMQ, line(&format!("worker {guest} {workers}"), &without(&most, &["--wait=", "--on-empty"]))));
    lines
}

#[test]
fn what_is_printed_is_valid_for_kubernetes_and_keda_with_every_flag() {
    if installed("python3").is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut seen = BTreeSet::new();
    let mut files = Vec::new();
    for (number, (broker, line)) in lines(folder.path()).into_iter().enumerate() {
        let args: Vec<&str> = line.iter().map(String::as_str).collect();
        let printed = manifest(broker, &args);
        printed.exits(0);
        let text = printed.out();
        assert!(!text.contains("s3cret") && !text.contains("user:"), "{line:?}");
        seen.extend(
            args.iter()
                .filter_map(|word| word.strip_prefix("--"))
                .map(|flag| flag.split('=').next().unwrap().to_owned()),
        );
        let file = folder.path().join(format!("{number:02}.yaml"));
        std::fs::write(&file, text).unwrap();
        files.push(file);
    }
    let command = Cli::command();
    let kinds = command.find_subcommand("manifest").unwrap().get_subcommands();
    for flag in kinds.flat_map(clap::Command::get_arguments).filter_map(clap::Arg::get_long) {
        let elsewhere = ["help", "broker", "queue", "output"].contains(&flag);
        assert!(elsewhere || seen.contains(flag), "no manifest has --{flag}");
    }
    let script = root().join("scripts/check-manifests.sh");
    run(Command::new(script).arg("--printed").args(&files).current_dir(root())).exits(0);
}

#[test]
fn each_flag_of_work_reaches_the_pods_as_it_was_typed() {
    for (flags, mode) in flags().iter().zip(["--completions=8", "--drain"]) {
        let guest = guest("echo");
        let mounts = "--mount=/data=pvc/data --mount=/results=pvc/results --mount=/kept=pvc/kept";
        let mut line = vec!["job", &guest, mode, "--output=json"];
        line.extend(mounts.split_whitespace());
        line.extend(flags.iter().map(String::as_str));
        let printed = objects(&manifest("", &line));
        let args = args(find(&printed, "Job"));
        for flag in flags {
            // Kubernetes makes one sign of two.
            assert!(args.contains(&flag.replace('$', "$$")), "{flag} is not among {args:?}");
        }
        // `work` itself takes them all: it goes on until it looks for the folders, which are the pod's.
        let line: Vec<String> = args.iter().map(|arg| arg.replace("$$", "$")).collect();
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        let worked = run(wq_run(&line).env("BROKER_URL", "sqlite:/no/such/folder/q.db"));
        assert_ne!(worked.code, Some(2), "{}", worked.stderr);
    }
}

/// Runs the container of a workload as a process.
fn work(queue: &Queue, objects: &[Value], kind: &str) -> Run {
    let guest = mounted(objects);
    let args = args(find(objects, kind)).into_iter().map(|arg| arg.replace("$$", "$"));
    let args: Vec<String> =
        args.map(|arg| arg.replacen("/guest/", &format!("{}/", guest.path().display()), 1)).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    run(queue.command(&args).env_remove("QUEUE"))
}

/// What is printed for a queue without its address: the pods have that from their Secret.
fn printed(queue: &Queue, args: &[&str]) -> Vec<Value> {
    let mut command = wq_run(&["manifest"]);
    objects(&run(command.args(args).args(["--output=json", "--queue", &queue.name])))
}

#[test]
fn the_pods_of_a_job_do_the_work() {
    let Some(guest) = page_guest("rust") else { return };
    on_every_queue(|queue| {
        queue.publish(&["apple", "banana", "cherry"]);
        let one = printed(queue, &["job", &guest, "--completions", "1"]);
        work(queue, &one, "Job").exits(0).prints("Processing apple\n");
        let rest = printed(queue, &["job", &guest, "--drain", "--concurrency", "2"]);
        assert_eq!(work(queue, &rest, "Job").exits(0).out().lines().count(), 2);
        // One more than there are messages.
        let wait = printed(queue, &["job", &guest, "--completions", "1", "--wait", "1s"]);
        work(queue, &wait, "Job").exits(0).prints("");
    });
}

#[test]
fn a_guest_in_several_config_maps_runs() {
    let folder = tempfile::tempdir().unwrap();
    let large = large_guest(folder.path());
    on_every_queue(|queue| {
        let objects = printed(queue, &["job", &large, "--completions", "1"]);
        let maps: Vec<&Value> = objects.iter().filter(|object| object["kind"] == "ConfigMap").collect();
        assert_eq!(maps.len(), 3);
        let sources = volumes(find(&objects, "Job"))["/guest"]["projected"]["sources"].clone();
        let named: Vec<&Value> =
            sources.as_array().unwrap().iter().map(|source| &source["configMap"]["name"]).collect();
        assert_eq!(named, maps.iter().map(|map| &map["metadata"]["name"]).collect::<Vec<_>>());
        queue.publish(&["from pieces"]);
        work(queue, &objects, "Job").exits(0).prints("from pieces");
    });
}

#[test]
fn completions_auto_are_as_many_as_the_queue_has_messages() {
    on_every_queue(|queue| {
        let guest = guest("echo");
        let auto = |count: &str| {
            run(&mut queue.command(&[
                "manifest",
                "job",
                &guest,
                "--completions",
                "auto",
                "--count",
                count,
                "-o",
                "json",
            ]))
        };
        // Pods don't share a file of this host.
        if queue.url().starts_with("sqlite:") {
            auto("1").exits(78).says("BROKER_URL");
            return;
        }
        auto("1").exits(78).says("has 0 messages").says("--count");
        queue.publish(&["a", "b", "c", "d", "e"]);
        // Some brokers count with a delay.
        let completions = |count, expected: u64| {
            crate::harness::eventually("all are counted", || {
                let objects = objects(&auto(count));
                (find(&objects, "Job")["spec"]["completions"] == expected).then_some(())
            });
        };
        completions("1", 5);
        completions("2", 3);
        run(&mut queue.command(&["work", &guest, "--drain"])).exits(0);
    });
}

#[test]
fn a_pod_has_the_volumes_that_its_flags_need() {
    let guest = guest("echo");
    let job = |flags: &[&str]| {
        let mut line = vec!["job", &guest, "--completions=1", "--output=json"];
        line.extend(flags);
        let printed = objects(&manifest("", &line));
        (volumes(find(&printed, "Job")), args(find(&printed, "Job")))
    };
    let (volumes, args) = job(&[]);
    assert_eq!(volumes.keys().collect::<Vec<_>>(), ["/guest"]);
    assert!(args.contains(&"--no-cache".to_owned()), "each pod starts once: {args:?}");
    let (volumes, _) = job(&["--metadata"]);
    assert_eq!(volumes["/tmp"]["emptyDir"]["sizeLimit"], "64Mi");
    let (volumes, _) = job(&["--scratch=1GiB", "--concurrency=2"]);
    assert_eq!(volumes["/tmp"]["emptyDir"]["sizeLimit"], "2112Mi");
    let (volumes, args) = job(&["--cache-dir=/cache", "--mount=/cache=pvc/compiled"]);
    assert_eq!(volumes["/cache"]["persistentVolumeClaim"]["claimName"], "compiled");
    assert!(args.contains(&"--cache-dir=/cache".to_owned()) && !args.contains(&"--no-cache".to_owned()), "{args:?}");
    // A worker that is started anew in its pod finds what it has compiled.
    let printed = objects(&manifest("", &["worker", &guest, "--output=json"]));
    assert_eq!(self::volumes(find(&printed, "Deployment"))["/cache"]["emptyDir"], serde_json::json!({}));
    // What deploy/guest.Dockerfile makes.
    let printed =
        objects(&manifest("", &["job", "task.wasm", "--guest-from=image/task:1", "--completions=1", "--output=json"]));
    assert_eq!(self::volumes(find(&printed, "Job"))["/guest"]["image"]["reference"], "task:1");
    assert!(self::args(find(&printed, "Job")).contains(&"--cache-dir=/guest/cache".to_owned()));
}

#[test]
fn a_claim_can_be_written_to_only_where_a_flag_writes() {
    let guest = guest("echo");
    let line = [
        "job",
        &guest,
        "--drain",
        "--output=json",
        "--mount=/in=pvc/in",
        "--mount=/out=pvc/out",
        "--dir=/in/today::/in",
        "--result=dir:/out",
    ];
    let printed = objects(&manifest("", &line));
    let pods = pods(find(&printed, "Job"));
    let mounts = pods["containers"][0]["volumeMounts"].as_array().unwrap();
    let read_only = |path: &str| mounts.iter().find(|mount| mount["mountPath"] == path).unwrap()["readOnly"] == true;
    assert!(read_only("/in") && !read_only("/out") && read_only("/guest"), "{mounts:?}");
    assert_eq!(pods["securityContext"]["fsGroup"], 65532);
}

#[test]
fn a_pod_may_take_longer_to_end_than_its_worker() {
    let guest = guest("echo");
    let grace = |flags: &[&str]| {
        let mut line = vec!["worker", &guest, "--output=json"];
        line.extend(flags);
        pods(find(&objects(&manifest("", &line)), "Deployment"))["terminationGracePeriodSeconds"].as_u64().unwrap()
    };
    assert_eq!(grace(&[]), 30);
    assert_eq!(grace(&["--shutdown-timeout=90s"]), 95);
    assert_eq!(grace(&["--shutdown-timeout=1500ms"]), 7);
}

#[test]
fn what_no_pod_could_run_is_refused_with_a_hint() {
    let guest = guest("echo");
    let table: [(&[&str], &str, &str); 20] = [
        (&["job", "GUEST"], "how many pods", "--completions"),
        (&["job", "GUEST", "--forever"], "a Job ends", "manifest worker"),
        (&["worker", "GUEST", "--drain"], "never end", "manifest job"),
        (&["worker", "GUEST", "--wait=1s"], "never end", "manifest job"),
        (&["job", "GUEST", "--completions=auto"], "no broker is named", "--broker"),
        (&["keda", "GUEST"], "none is named", "--broker"),
        (&["keda", "GUEST", "--broker=sqlite:q.db"], "this host alone", "--broker"),
        (&["keda", "GUEST", "--broker=redis+unix:///s"], "this host alone", "--broker"),
        (&["keda", "GUEST", "--broker=redis://h", "--min-replicas=30"], "above --max-replicas", "swap"),
        (&["job", "GUEST", "--drain", "--dir=/data"], "no such folder", "--mount /data=pvc/NAME"),
        (&["job", "GUEST", "--drain", "--dir=data"], "begins with a slash", "--dir"),
        (&["job", "GUEST", "--drain", "--result=dir:/out"], "no such folder", "--mount /out=pvc/NAME"),
        (&["job", "GUEST", "--drain", "--dir=/c:rw", "--mount=/c=configmap/c"], "is read-only", "pvc/NAME"),
        (&["job", "GUEST", "--drain", "--mount=/a=pvc/a", "--mount=/a=pvc/b"], "something else", "--mount"),
        (&["job", "GUEST", "--drain", "--mount=/guest/x=pvc/a"], "something else", "--mount"),
        (&["job", "GUEST", "--drain", "--env=TOKEN"], "environment of the pod", "--env-from"),
        (&["job", "../t.wasm", "--drain", "--guest-from=configmap/g"], "a path in the volume", "task.wasm"),
        (&["job", "t.wasm", "--drain", "--guest-from=emptydir"], "a guest comes from", "--guest-from"),
        (&["job", "GUEST", "--drain", "--requests=cpu=1,cpu=2"], "cpu twice", "--requests"),
        (&["job", "GUEST", "--drain", "--broker=redis://h", "--dead-letter-by=broker"], "Redis", "--dead-letter-by"),
    ];
    for (line, message, hint) in table {
        let line: Vec<&str> = line.iter().map(|word| if *word == "GUEST" { guest.as_str() } else { word }).collect();
        manifest("", &line).exits(78).says(message).says(hint).prints("");
    }
    run(wq_run(&["manifest", "job", &guest, "--drain"]).env("BROKER_URL", "")).exits(78).says("--queue (QUEUE)");
    manifest("", &["job", &crate::harness::guest("no-start"), "--drain"]).exits(66).says("no function `_start`");
    manifest("", &["job", "missing.wasm", "--drain"]).exits(66).says("No such file");
    for bad in
        ["--mount=/etc=hostpath/etc", "--requests=cpu=much", "--completions=0", "--name=Job_1", "--env-from=pvc/a"]
    {
        manifest("", &["job", &guest, bad]).exits(2);
    }
}
