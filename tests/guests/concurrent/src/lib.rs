//! A command of WASI 0.3. It does what its first argument says, and what only such a command can do.

use std::collections::VecDeque;

use wasip3::cli::{environment, exit, stderr, stdin, stdout};
use wasip3::clocks::monotonic_clock;
use wasip3::random::random;
use wasip3::sockets::ip_name_lookup;
use wasip3::sockets::types::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket, UdpSocket,
};
use wasip3::{spawn_local, wit_bindgen, wit_future, wit_stream};

wasip3::cli::command::export!(Concurrent);

struct Concurrent;

const SECOND: u64 = 1_000_000_000;

impl wasip3::exports::cli::run::Guest for Concurrent {
    async fn run() -> Result<(), ()> {
        let mut args: VecDeque<String> = environment::get_arguments().into();
        args.pop_front();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        match args[..] {
            ["echo"] => {
                let (message, _) = stdin::read_via_stream();
                stdout::write_via_stream(message).await.map_err(drop)
            }
            ["exit", code] => {
                exit::exit_with_code(number(code) as u8);
                Ok(())
            }
            ["fail"] => Err(()),
            ["trap"] => std::process::abort(),
            ["deep"] => {
                deep(1);
                Ok(())
            }
            ["memory"] => {
                let mut kept = Vec::new();
                loop {
                    kept.push(vec![1_u8; 1 << 20]);
                }
            }
            ["spin"] => loop {
                std::hint::black_box(0);
            },
            ["yield"] => loop {
                wit_bindgen::rt::async_support::yield_async().await;
            },
            ["sleep"] => {
                print(&stderr_of("started\n")).await;
                monotonic_clock::wait_for(3600 * SECOND).await;
                Ok(())
            }
            // Nobody else has the other end.
            ["deadlock"] => {
                let (writer, mut reader) = wit_stream::new::<u8>();
                reader.next().await;
                drop(writer);
                Ok(())
            }
            // One call with so many bytes, whose result nobody looks at.
            ["write", bytes] => {
                let (mut writer, reader) = wit_stream::new();
                let written = stdout::write_via_stream(reader);
                writer.write_all(vec![b'x'; number(bytes)]).await;
                drop(writer);
                let _ = written.await;
                Ok(())
            }
            ["write-and-spin", bytes] => {
                let (mut writer, reader) = wit_stream::new();
                let _written = stdout::write_via_stream(reader);
                writer.write_all(vec![b'x'; number(bytes)]).await;
                loop {
                    std::hint::black_box(0);
                }
            }
            // Returns, and has a task left.
            ["late", "print", lines] => {
                let lines = number(lines);
                spawn_local(async move {
                    let (mut writer, reader) = wit_stream::new();
                    let written = stdout::write_via_stream(reader);
                    for line in 1..=lines {
                        monotonic_clock::wait_for(SECOND / 1000).await;
                        writer.write_all(format!("line {line}\n").into_bytes()).await;
                    }
                    drop(writer);
                    written.await.expect("it is written");
                });
                Ok(())
            }
            ["late", "sleep"] => {
                spawn_local(monotonic_clock::wait_for(3600 * SECOND));
                Ok(())
            }
            ["late", "trap"] => {
                spawn_local(async {
                    monotonic_clock::wait_for(SECOND / 100).await;
                    std::process::abort();
                });
                Ok(())
            }
            ["late", "exit", code] => {
                let code = number(code) as u8;
                spawn_local(async move {
                    monotonic_clock::wait_for(SECOND / 100).await;
                    exit::exit_with_code(code);
                });
                Ok(())
            }
            ["late", "fail"] => {
                spawn_local(monotonic_clock::wait_for(3600 * SECOND));
                Err(())
            }
            // Holds so many of what the host has to keep for it.
            ["hold", what, many] => {
                hold(what, number(many)).await;
                Ok(())
            }
            ["random", bytes] => {
                let bytes = random::get_random_bytes(number(bytes) as u64);
                print(&stderr_of(&format!("{} bytes\n", bytes.len()))).await;
                Ok(())
            }
            // What differs between two runs.
            ["dice"] => {
                let now = wasip3::clocks::system_clock::now();
                let mut bytes = random::get_random_bytes(64);
                bytes.extend(now.seconds.to_le_bytes());
                bytes.extend(now.nanoseconds.to_le_bytes());
                bytes.extend(monotonic_clock::now().to_le_bytes());
                print(&(Out::Stdout, bytes)).await;
                Ok(())
            }
            ["connect", host, port] => refused(connect(host, number(port) as u16).await).await,
            ["listen"] => refused(listen()).await,
            ["udp"] => refused(udp()).await,
            _ => panic!("there is no {args:?}"),
        }
    }
}

enum Out {
    Stdout,
    Stderr,
}

fn stderr_of(text: &str) -> (Out, Vec<u8>) {
    (Out::Stderr, text.as_bytes().to_vec())
}

async fn print((out, bytes): &(Out, Vec<u8>)) {
    let (mut writer, reader) = wit_stream::new();
    let written = match out {
        Out::Stdout => stdout::write_via_stream(reader),
        Out::Stderr => stderr::write_via_stream(reader),
    };
    writer.write_all(bytes.clone()).await;
    drop(writer);
    let _ = written.await;
}

fn number(text: &str) -> usize {
    text.parse().expect("a number")
}

fn deep(depth: u64) -> u64 {
    std::hint::black_box(if depth == 0 { 0 } else { deep(std::hint::black_box(depth + 1)) + 1 })
}

async fn hold(what: &str, many: usize) {
    match what {
        "streams" => {
            let held: Vec<_> = (0..many).map(|_| wit_stream::new::<u8>()).collect();
            monotonic_clock::wait_for(SECOND / 100).await;
            drop(held);
        }
        "futures" => {
            let held: Vec<_> = (0..many).map(|_| wit_future::new::<Result<(), wasip3::cli::types::ErrorCode>>(|| Ok(()))).collect();
            monotonic_clock::wait_for(SECOND / 100).await;
            drop(held);
        }
        "sleepers" => {
            let sleepers: Vec<_> = (0..many).map(|_| spawn_local(monotonic_clock::wait_for(SECOND))).collect();
            for sleeper in sleepers {
                sleeper.await;
            }
        }
        "writers" => {
            let held: Vec<_> = (0..many)
                .map(|_| {
                    let (writer, reader) = wit_stream::new();
                    (writer, stdout::write_via_stream(reader))
                })
                .collect();
            monotonic_clock::wait_for(SECOND / 100).await;
            drop(held);
        }
        "sockets" => {
            let held: Vec<_> = (0..many).map(|_| TcpSocket::create(IpAddressFamily::Ipv4)).collect();
            monotonic_clock::wait_for(SECOND / 100).await;
            drop(held);
        }
        // Listings of a folder that nobody reads.
        "listings" => {
            let folders = wasip3::filesystem::preopens::get_directories();
            let (folder, _) = folders.first().expect("a folder was granted");
            let held: Vec<_> = (0..many).map(|_| folder.read_directory()).collect();
            monotonic_clock::wait_for(SECOND / 100).await;
            drop(held);
        }
        _ => panic!("{what} can't be held"),
    }
}

async fn refused(tried: Result<(), String>) -> Result<(), ()> {
    if let Err(error) = tried {
        print(&stderr_of(&format!("refused: {error}\n"))).await;
        return Err(());
    }
    Ok(())
}

fn said(error: ErrorCode) -> String {
    format!("{error:?}")
}

async fn connect(host: &str, port: u16) -> Result<(), String> {
    let addresses =
        ip_name_lookup::resolve_addresses(host.to_owned()).await.map_err(|error| format!("{error:?}"))?;
    let address = addresses.into_iter().find_map(|address| match address {
        IpAddress::Ipv4(address) => Some(address),
        IpAddress::Ipv6(_) => None,
    });
    let address = address.ok_or("it has no address of IPv4")?;
    let socket = TcpSocket::create(IpAddressFamily::Ipv4).map_err(said)?;
    socket.connect(IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address })).await.map_err(said)?;
    let (mut writer, reader) = wit_stream::new();
    let sent = socket.send(reader);
    writer.write_all(b"ping".to_vec()).await;
    drop(writer);
    sent.await.map_err(said)?;
    let (answer, _) = socket.receive();
    stdout::write_via_stream(answer).await.map_err(|error| format!("{error:?}"))
}

const ANY_PORT: IpSocketAddress = IpSocketAddress::Ipv4(Ipv4SocketAddress { port: 0, address: (127, 0, 0, 1) });

fn listen() -> Result<(), String> {
    let socket = TcpSocket::create(IpAddressFamily::Ipv4).map_err(said)?;
    socket.bind(ANY_PORT).map_err(said)?;
    socket.listen().map(drop).map_err(said)
}

fn udp() -> Result<(), String> {
    let socket = UdpSocket::create(IpAddressFamily::Ipv4).map_err(said)?;
    socket.bind(ANY_PORT).map_err(said)
}
