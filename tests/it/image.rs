//! The image: built in its last stage from the binary that the tests have, and run as strictly as a cluster can.

use std::process::Command;
use std::time::Duration;

use crate::harness::queue::{Broker, Queue};
use crate::harness::rabbitmq::RabbitMq;
use crate::harness::{installed, page_guest, root, run, start};

const STRICT: [&str; 6] = [
    "--read-only",
    "--cap-drop=ALL",
    "--user=65532:65532",
    "--security-opt=no-new-privileges",
    "--network=host",
    "--memory=768m",
];

/// podman, with the settings that `scripts/image.sh` has written.
fn podman(args: &[&str]) -> Command {
    let mut command = Command::new("podman");
    let settings = root().join("build/containers.conf");
    if settings.is_file() {
        command.env("CONTAINERS_CONF", settings);
    }
    command.args(args);
    command
}

fn script(name: &str) -> Command {
    let mut command = Command::new(root().join("scripts").join(name));
    command.current_dir(root());
    command
}

/// The image with the binary that the tests have.
fn image(name: &str) {
    // A stand-in is made of packages, which a fresh machine downloads.
    const TO_DOWNLOAD: Duration = Duration::from_secs(600);
    start(script("base-images.sh").arg("slim")).end_within(TO_DOWNLOAD).exits(0);
    let mut image = script("image.sh");
    image.args(["--prebuilt", env!("CARGO_BIN_EXE_wq-run")]).env("IMAGE", name);
    start(&mut image).end_within(TO_DOWNLOAD).exits(0);
}

#[test]
fn the_image_of_a_guest_holds_its_compiled_code_and_is_the_same_each_time() {
    let (Some(_), Some(guest)) = (installed("podman"), page_guest("rust")) else { return };
    let wq_run = "localhost/wq-run:for-guests";
    image(wq_run);
    let build = |name: &str| {
        let mut command = script("guest-image.sh");
        run(command.args([&guest, "--fuel", "1000000"]).env("IMAGE", name).env("WQ_RUN", wq_run)).exits(0);
        run(&mut podman(&["image", "inspect", "--format", "{{.Digest}}", name])).exits(0).out()
    };
    let first = build("localhost/guest:first");
    // So that nothing of the first one is taken.
    run(&mut podman(&["rmi", "--force", "localhost/guest:first"])).exits(0);
    assert_eq!(build("localhost/guest:second"), first);
    let mount = "--mount=type=image,source=localhost/guest:second,destination=/guest";
    let in_pod = |words: &[&str], stdin: &[u8]| {
        let mut command = podman(&["run", "--rm", "--interactive"]);
        crate::harness::run_with(command.args(STRICT).args([mount, wq_run]).args(words), stdin)
    };
    let guest = "/guest/processing-rust.wasm";
    // A cache that can't be written to: `compile` ends with 0 only if the code is there already.
    let compile = ["compile", guest, "--cache-dir", "/guest/cache"];
    in_pod(&[&compile[..], &["--fuel", "7"]].concat(), b"").exits(0);
    in_pod(&compile, b"").exits(74);
    let exec = ["exec", guest, "--cache-dir", "/guest/cache", "--fuel", "1000000"];
    in_pod(&exec, b"apple").exits(0).prints("Processing apple\n");
}

#[test]
fn the_image_does_the_pages_work_without_rights_and_without_a_writable_file_system() {
    let (Some(_), Some(rabbitmq)) = (installed("podman"), RabbitMq::shared()) else { return };
    let Some(guest) = page_guest("rust") else { return };
    let name = "localhost/wq-run:test";
    image(name);
    let queue = Queue::new(Broker::Quorum(rabbitmq));
    let mount = format!("--volume={guest}:/guest/task.wasm:ro");
    let environment =
        [format!("--env=BROKER_URL={}", queue.url()), format!("--env=QUEUE={}", queue.name), "--env=WQ_WAIT=1s".into()];
    let work = |args: &[&str]| {
        let mut command = podman(&["run", "--rm"]);
        command.args(STRICT).arg(&mount).args(&environment).arg(name).args(["work", "/guest/task.wasm"]).args(args);
        run(&mut command)
    };
    queue.publish(&["apple", "banana", "cherry"]);
    work(&[]).exits(0).prints("Processing apple\n");
    work(&["--drain"]).exits(0).prints("Processing banana\nProcessing cherry\n");
    work(&["--on-empty", "fail"]).exits(79);
    // A guest that gets the whole container killed: the message is not lost, and its attempt is counted.
    queue.publish(&["greedy"]);
    let greedy = format!("--volume={}:/guest/greedy.wat:ro", crate::harness::guest("greedy"));
    let mut command = podman(&["run", "--rm"]);
    // Where its helper leaves a note when a container runs out of memory.
    let notes = tempfile::tempdir().unwrap();
    command.current_dir(notes.path());
    command.args(STRICT).args(["--memory=64m", "--memory-swap=64m", &greedy]).args(&environment).arg(name);
    run(command.args(["work", "/guest/greedy.wat"])).exits(137);
    queue.wait_for_depth(1);
    assert_eq!(queue.take().headers["x-delivery-count"], "LongLongInt(1)");
    // There is no shell to get into.
    let shell = run(podman(&["run", "--rm", "--entrypoint", "/bin/sh"]).args(STRICT).args([name, "-c", "true"]));
    assert_ne!(shell.code, Some(0));
}
