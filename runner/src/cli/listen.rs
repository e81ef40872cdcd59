//! Reads the address that `--listen` binds.

use std::net::{Ipv4Addr, SocketAddr};

/// An IP address and a port. A port alone would have to mean this host or all the world, and different programs mean
/// different things by it.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    if let Some(Ok(port)) = text.strip_prefix("localhost:").map(str::parse) {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    text.parse().map_err(|_| match text.strip_prefix(':').unwrap_or(text).parse::<u16>() {
        Ok(port) => format!(
            "a port alone does not say who may connect: 127.0.0.1:{port} is for this host alone, 0.0.0.0:{port} or \
             [::]:{port} is for every other host too"
        ),
        Err(_) => "an address is IP:PORT, as in 127.0.0.1:9090, [::1]:9090 or localhost:9090".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_who_may_connect() {
        for (text, read) in [
            ("127.0.0.1:9090", "127.0.0.1:9090"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("[::]:9090", "[::]:9090"),
            ("[::1]:0", "[::1]:0"),
            ("localhost:9090", "127.0.0.1:9090"),
        ] {
            assert_eq!(address(text).map(|address| address.to_string()), Ok(read.to_owned()), "{text}");
        }
        for text in [":9090", "9090"] {
            assert!(address(text).is_err_and(|hint| hint.contains("127.0.0.1:9090") && hint.contains("0.0.0.0:9090")));
        }
        for text in ["", ":", "localhost", "localhost:x", "example.org:80", "127.0.0.1", "::1:99999", ":99999"] {
            assert!(address(text).is_err_and(|hint| hint.contains("IP:PORT")), "{text}");
        }
    }
}
