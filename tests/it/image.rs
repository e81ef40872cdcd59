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

#[test]
fn the_image_does_the_pages_work_without_rights_and_without_a_writable_file_system() {
    let (Some(_), Some(rabbitmq)) = (installed("podman"), RabbitMq::shared()) else { return };
    let Some(guest) = page_guest("rust") else { return };
    let script = |name: &str| Command::new(root().join("scripts").join(name));
    // A stand-in is made of packages, which a fresh machine downloads.
    const TO_DOWNLOAD: Duration = Duration::from_secs(600);
    start(script("base-images.sh").arg("slim").current_dir(root())).end_within(TO_DOWNLOAD).exits(0);
    let image = "localhost/wq-run:test";
    run(script("image.sh").args(["--prebuilt", env!("CARGO_BIN_EXE_wq-run")]).env("IMAGE", image).current_dir(root()))
        .exits(0);
    let queue = Queue::new(Broker::Quorum(rabbitmq));
    let mount = format!("--volume={guest}:/guest/task.wasm:ro");
    let environment =
        [format!("--env=BROKER_URL={}", queue.url()), format!("--env=QUEUE={}", queue.name), "--env=WQ_WAIT=1s".into()];
    let work = |args: &[&str]| {
        let mut command = podman(&["run", "--rm"]);
        command.args(STRICT).arg(&mount).args(&environment).arg(image).args(["work", "/guest/task.wasm"]).args(args);
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
    command.args(STRICT).args(["--memory=64m", "--memory-swap=64m", &greedy]).args(&environment).arg(image);
    run(command.args(["work", "/guest/greedy.wat"])).exits(137);
    queue.wait_for_depth(1);
    assert_eq!(queue.take().headers["x-delivery-count"], "LongLongInt(1)");
    // There is no shell to get into.
    let shell = run(podman(&["run", "--rm", "--entrypoint", "/bin/sh"]).args(STRICT).args([image, "-c", "true"]));
    assert_ne!(shell.code, Some(0));
}
