//! The example guests, one in each language: run through real queues, as their pages say, they do what they promise with a good
//! message and with a bad one.

use std::io::{Read as _, Write as _};
use std::process::Command;
use std::time::Duration;

use crate::harness::queue::{Broker, Queue};
use crate::harness::rabbitmq::RabbitMq;
use crate::harness::redis::Redis;
use crate::harness::web::Web;
use crate::harness::{Run, required, root, run, start, wq_run};

const CACHE: [&str; 2] = ["--cache-dir", concat!(env!("CARGO_TARGET_TMPDIR"), "/cache-languages")];

/// A guest of `guest-examples`, compiled ahead.
fn example(name: &str) -> Option<String> {
    let path = root().join("build/guests").join(name).with_extension("wasm");
    let missing = format!("`make guests` has not built the example guest `{name}`");
    let guest = required(path.is_file().then(|| path.display().to_string()), &missing)?;
    // An unoptimised build takes minutes for an interpreter, on a machine that does other things too.
    let compile = ["compile", guest.as_str(), "--compile-timeout", "20m"];
    start(wq_run(&compile).args(CACHE)).end_within(Duration::from_secs(20 * 60)).exits(0);
    Some(guest)
}

/// One queue in a file, and one on a broker: the guests are what differs here.
fn on_two_queues(test: impl Fn(&Queue)) {
    test(&Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap())));
    if let Some(rabbitmq) = RabbitMq::shared() {
        test(&Queue::new(Broker::Quorum(rabbitmq)));
    }
}

/// A worker for one message.
fn worker(queue: &Queue, guest: &str, flags: &[&str]) -> Command {
    let mut command = queue.command(&["work", guest]);
    command.args(CACHE).args(flags);
    command
}

fn publish(queue: &Queue, message: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(message).unwrap();
    run(queue.command(&["publish", "--file"]).arg(file.path())).exits(0);
}

/// What becomes of a good message.
fn worked(queue: &Queue, guest: &str, flags: &[&str], message: &[u8]) -> Run {
    publish(queue, message);
    let ended = run(&mut worker(queue, guest, flags));
    ended.exits(0);
    ended
}

/// A bad message is a dead letter at the first attempt, whose reason is the exit code and what the guest said.
fn refused(queue: &Queue, guest: &str, flags: &[&str], message: &[u8], why: &str) {
    publish(queue, message);
    run(&mut worker(queue, guest, flags)).exits(65).says(r#""settlement":"dead-letter""#).says(why).prints("");
    let dead = queue.take_dead();
    assert_eq!(dead.body, message);
    let header = |name: &str| dead.headers.get(name).map(String::as_str);
    assert_eq!((header("x-wq-outcome"), header("x-wq-exit-code")), (Some("exit"), Some("65")));
    assert!(header("x-wq-stderr").is_some_and(|text| text.contains(why)), "{:?}", dead.headers);
}

/// What another try can mend is a retry, with this exit code.
fn comes_again(queue: &Queue, guest: &str, flags: &[&str], message: &[u8], why: &str) {
    publish(queue, message);
    let flags = [flags, &["--backoff-initial", "0"]].concat();
    run(&mut worker(queue, guest, &flags)).exits(75).says(why).prints("");
    let back = queue.take();
    assert_eq!((back.body.as_slice(), back.headers["x-wq-exit-code"].as_str()), (message, "75"));
}

#[test]
fn rust_counts_the_words_of_a_file_in_a_folder_that_it_may_read() {
    let Some(guest) = example("words-rust") else { return };
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("poem.txt"), "one two\nthree\n").unwrap();
    let grant = format!("{}::/data", folder.path().display());
    on_two_queues(|queue| {
        worked(queue, &guest, &["--dir", &grant], b"poem.txt").prints("2 3 14 poem.txt\n");
        refused(queue, &guest, &["--dir", &grant], b"novel.txt", "there is no /data/novel.txt");
        refused(queue, &guest, &["--dir", &grant], b"../poem.txt", "is no name of a file");
        // Without the grant there is no file at all.
        refused(queue, &guest, &[], b"poem.txt", "there is no /data/poem.txt");
    });
}

#[test]
fn rust_for_0_2_asks_a_server_over_tcp() {
    let Some(guest) = example("lookup-rust") else { return };
    let Some(redis) = Redis::shared() else { return };
    let address = redis.url().trim_start_matches("redis://").to_owned();
    redis.ask(&["SET", "lookup:a", "the value"]);
    let server = format!("REDIS={address}");
    let granted = ["--env", &server, "--allow-net", &address];
    on_two_queues(|queue| {
        worked(queue, &guest, &granted, b"lookup:a").prints("the value");
        refused(queue, &guest, &granted, b"lookup:b", "there is no such key");
        comes_again(queue, &guest, &["--env", &server], b"lookup:a", "--allow-net");
    });
    redis.ask(&["DEL", "lookup:a"]);
}

#[test]
fn rust_for_0_3_keeps_the_answer_of_an_http_api() {
    let Some(guest) = example("api-rust") else { return };
    let web = Web::start();
    let host = format!("127.0.0.1:{}", web.port);
    let api = format!("API_URL=http://{host}/items");
    let granted = ["--env", &api, "--allow-http", &host];
    on_two_queues(|queue| {
        worked(queue, &guest, &granted, b"a-7").prints("hello");
        assert_eq!(web.last_request(), ("GET /items/a-7 HTTP/1.1".to_owned(), host.clone()));
        refused(queue, &guest, &granted, b"missing", "the API answered 404");
        refused(queue, &guest, &granted, b"../admin", "is no name of an item");
        comes_again(queue, &guest, &granted, b"busy", "the API answered 503");
        comes_again(queue, &guest, &["--env", &api], b"a-7", "--allow-http");
    });
}

#[test]
fn c_sums_up_a_range_and_says_how_far_it_is() {
    let Some(guest) = example("sum-c") else { return };
    on_two_queues(|queue| {
        worked(queue, &guest, &[], b"1 10").prints("1.5497677311665408\n").says("100 %");
        let long = worked(queue, &guest, &[], b"11 20000011");
        assert!(long.stderr.matches(" %").count() >= 9, "{}", long.stderr);
        for bad in ["", "1", "2 1", "0 1", "1 2 3", "1 -2"] {
            refused(queue, &guest, &[], bad.as_bytes(), "the message has to be FROM TO");
        }
    });
}

#[test]
fn cpp_renders_a_tile_as_an_image() {
    let Some(guest) = example("mandelbrot-cpp") else { return };
    on_two_queues(|queue| {
        let results = tempfile::tempdir().unwrap();
        let into = format!("dir:{}", results.path().display());
        worked(queue, &guest, &["--result", &into], b"0/0/0").prints("");
        let files: Vec<_> = std::fs::read_dir(results.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        let images: Vec<_> = files.iter().filter_map(|path| std::fs::read(path).ok()).collect();
        let pixels = images.iter().find_map(|image| decoded(image)).unwrap_or_else(|| panic!("no image: {files:?}"));
        // Black in the middle of the set, and coloured in the corner.
        assert_eq!((pixels[128 * 257 + 1 + 192], pixels[1] > 0), (0, true));
        refused(queue, &guest, &[], b"0/1/0", "ZOOM/X/Y");
    });
}

/// The rows of a PNG with 256 by 256 pixels of a byte, each with its filter before it. Checksums have to be right.
fn decoded(image: &[u8]) -> Option<Vec<u8>> {
    let mut rest = image.strip_prefix(b"\x89PNG\r\n\x1a\n")?;
    let mut pixels = Vec::new();
    let mut names = Vec::new();
    while !rest.is_empty() {
        let number = |at: usize| u32::from_be_bytes(rest[at..at + 4].try_into().unwrap());
        let length = number(0) as usize;
        let mut sum = flate2::Crc::new();
        sum.update(&rest[4..8 + length]);
        assert_eq!(sum.sum(), number(8 + length), "a checksum");
        let (name, data) = (&rest[4..8], &rest[8..8 + length]);
        match name {
            b"IHDR" => assert_eq!(data, b"\0\0\x01\0\0\0\x01\0\x08\x03\0\0\0"),
            b"IDAT" => drop(flate2::read::ZlibDecoder::new(data).read_to_end(&mut pixels).unwrap()),
            _ => {}
        }
        names.push(String::from_utf8_lossy(name).into_owned());
        rest = &rest[12 + length..];
    }
    assert_eq!(names, ["IHDR", "PLTE", "IDAT", "IEND"]);
    assert_eq!(pixels.len(), 256 * 257);
    Some(pixels)
}

#[test]
fn go_checks_an_order_and_sums_it_up() {
    let Some(guest) = example("orders-go") else { return };
    let order = br#"{"id":"o-1","currency":"EUR","lines":[{"article":"nut","quantity":100,"price":7}]}"#;
    let priced =
        r#"{"id":"o-1","currency":"EUR","lines":[{"article":"nut","quantity":100,"price":7,"sum":700}],"total":700}"#;
    on_two_queues(|queue| {
        worked(queue, &guest, &[], order).prints(&format!("{priced}\n"));
        refused(queue, &guest, &[], br#"{"id":"o-1","currency":"EUR","lines":[]}"#, "there are no lines");
        refused(queue, &guest, &[], b"{", "not an order");
    });
}

#[test]
fn zig_makes_an_image_smaller() {
    let Some(guest) = example("shrink-zig") else { return };
    on_two_queues(|queue| {
        let small = worked(queue, &guest, &["--", "2"], b"P6 3 1 255\n\x00\x00\x00\x0a\x0a\x0a\xff\xff\xff");
        assert_eq!(small.stdout, b"P6\n2 1\n255\n\x05\x05\x05\xff\xff\xff");
        refused(queue, &guest, &[], b"P5 1 1 255\n\x00", "NotAnImage");
        refused(queue, &guest, &[], b"P6 9 9 255\n\x00", "CutShort");
    });
}

#[test]
fn javascript_makes_an_invoice_of_an_order() {
    let Some(guest) = example("invoice-js") else { return };
    let order = r#"{"number": "7", "customer": "S\u00f6hne & <Töchter>", "lines": [{"text": "nut", "quantity": 3, "price": 5}]}"#;
    on_two_queues(|queue| {
        let invoice = worked(queue, &guest, &[], order.as_bytes()).out();
        assert!(
            invoice.contains("<p>Söhne &amp; &lt;Töchter&gt;</p>") && invoice.contains("<td>0.15</td>"),
            "{invoice}"
        );
        refused(queue, &guest, &[], br#"{"number": 7}"#, "number has to be a text");
        refused(queue, &guest, &[], b"\xff", "not UTF-8");
        refused(queue, &guest, &[], b"", "not JSON");
    });
}

#[test]
fn python_sums_readings_up() {
    let Some(guest) = example("report-python") else { return };
    on_two_queues(|queue| {
        let report = worked(queue, &guest, &[], b"sensor,time,value\nroof,10:00,21.5\nroof,11:00,22.5\n");
        report.prints("{\"roof\": {\"count\": 2, \"min\": 21.5, \"max\": 22.5, \"mean\": 22.0, \"median\": 22.0}}\n");
        refused(queue, &guest, &[], b"sensor,time,value\nroof,10:00,warm\n", "line 2");
        refused(queue, &guest, &[], b"\xff", "not UTF-8");
    });
}

#[test]
fn assemblyscript_makes_geohashes_of_places() {
    let Some(guest) = example("geohash-assemblyscript") else { return };
    on_two_queues(|queue| {
        worked(queue, &guest, &[], b"57.64911,10.40744\n0,0\n").prints("u4pruydqq\ns00000000\n");
        refused(queue, &guest, &[], b"0,0\n91,0\n", "line 2 is not LATITUDE,LONGITUDE");
        // A long one.
        let long = worked(queue, &guest, &[], &b"57.64911,10.40744\n".repeat(50_000)).out();
        assert!(long == "u4pruydqq\n".repeat(50_000), "{} bytes", long.len());
    });
}
