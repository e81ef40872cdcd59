//! Tries what sockets can do, as its arguments say: `connect HOST PORT`, `listen`, `udp`. Copies what a connection
//! answers to `ping` to stdout. Says why it was refused on stderr, and fails.

use wasip2::sockets::network::{ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress};
use wasip2::sockets::{instance_network, ip_name_lookup, tcp_create_socket, udp_create_socket};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let tried = match words[..] {
        ["connect", host, port] => connect(host, port.parse().expect("a port")),
        ["listen"] => listen(),
        ["udp"] => udp(),
        _ => panic!("connect HOST PORT, listen or udp"),
    };
    if let Err(error) = tried {
        eprintln!("refused: {error:?}");
        std::process::exit(1);
    }
}

fn connect(host: &str, port: u16) -> Result<(), ErrorCode> {
    let network = instance_network::instance_network();
    let lookup = ip_name_lookup::resolve_addresses(&network, host)?;
    let address = loop {
        lookup.subscribe().block();
        match lookup.resolve_next_address() {
            Ok(Some(IpAddress::Ipv4(address))) => break address,
            Ok(Some(_)) | Err(ErrorCode::WouldBlock) => {}
            Ok(None) => return Err(ErrorCode::NameUnresolvable),
            Err(error) => return Err(error),
        }
    };
    let socket = tcp_create_socket::create_tcp_socket(IpAddressFamily::Ipv4)?;
    socket.start_connect(&network, IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address }))?;
    let (input, output) = loop {
        socket.subscribe().block();
        match socket.finish_connect() {
            Err(ErrorCode::WouldBlock) => {}
            connected => break connected?,
        }
    };
    output.blocking_write_and_flush(b"ping").expect("it can be written to");
    let answer = input.blocking_read(100).expect("it answers");
    print!("{}", String::from_utf8_lossy(&answer));
    Ok(())
}

fn listen() -> Result<(), ErrorCode> {
    let network = instance_network::instance_network();
    let socket = tcp_create_socket::create_tcp_socket(IpAddressFamily::Ipv4)?;
    let address = Ipv4SocketAddress { port: 0, address: (127, 0, 0, 1) };
    socket.start_bind(&network, IpSocketAddress::Ipv4(address))?;
    socket.finish_bind()?;
    socket.start_listen()?;
    socket.finish_listen()
}

fn udp() -> Result<(), ErrorCode> {
    let network = instance_network::instance_network();
    let socket = udp_create_socket::create_udp_socket(IpAddressFamily::Ipv4)?;
    let address = Ipv4SocketAddress { port: 0, address: (127, 0, 0, 1) };
    socket.start_bind(&network, IpSocketAddress::Ipv4(address))?;
    socket.finish_bind()
}
