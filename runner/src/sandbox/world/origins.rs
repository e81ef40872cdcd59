//! Where a guest may send HTTP requests: what `--allow-http` names, and the addresses that a name may have.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `HOST[:PORT]` of `--allow-http`: a server, and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    host: Host,
    port: u16,
}

/// The host of a URL in its one form: an address, or a name in lower case without a dot at its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Host {
    Name(String),
    Address(IpAddr),
}

pub const HTTP: u16 = 80;
pub const HTTPS: u16 = 443;

impl Origin {
    pub fn host(&self) -> &Host {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether a request may go to this host and port, in this way. The ports that belong to a scheme are granted for it alone,
    /// so that nobody can lead a guest from an encrypted connection to one that is not. Any other port is granted for both.
    pub fn allows(&self, host: &Host, port: u16, encrypted: bool) -> bool {
        self.host == *host && self.port == port && !(port == HTTPS && !encrypted || port == HTTP && encrypted)
    }

    /// Whether only encrypted requests can go there.
    pub fn is_encrypted(&self) -> bool {
        self.port == HTTPS
    }

    /// Whether an encrypted request can go there.
    pub fn can_be_encrypted(&self) -> bool {
        self.port != HTTP
    }
}

impl Host {
    /// Reads a host as it stands in a URL. There is none for other forms of an address, `0x7f.1` for example, which some
    /// resolvers understand.
    pub fn parse(text: &str) -> Option<Host> {
        if let Some(inside) = text.strip_prefix('[') {
            return inside.strip_suffix(']')?.parse().ok().map(|address: Ipv6Addr| Host::Address(address.into()));
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Some(Host::Address(address.into()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        match url::Host::parse(name).ok()? {
            url::Host::Domain(name) if !name.ends_with('.') => Some(Host::Name(name)),
            _ => None,
        }
    }

    pub fn name(&self) -> Option<&str> {
        match self {
            Host::Name(name) => Some(name),
            Host::Address(_) => None,
        }
    }
}

/// As in a URL.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => write!(f, "{name}"),
            Host::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Origin, String> {
        let wrong = || format!("`{text}` is not HOST or HOST:PORT");
        // The colons of an address are in brackets.
        let after_address = text.rfind(']').map_or(0, |bracket| bracket + 1);
        let (host, port) = match text[after_address..].split_once(':') {
            Some((rest, port)) => (&text[..after_address + rest.len()], port.parse().map_err(|_| wrong())?),
            None => (text, HTTPS),
        };
        if port == 0 || host.contains(['*', '/', '@']) {
            return Err(wrong());
        }
        let host = Host::parse(host).ok_or_else(wrong)?;
        match host {
            Host::Address(address) if address != address.to_canonical() => {
                Err(format!("write `{}` in place of `{text}`", address.to_canonical()))
            }
            host => Ok(Origin { host, port }),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Whether a name may lead to this address. Whoever owns a name decides which addresses it has, so none may lead to
/// loopback or to a cloud's metadata. Addresses of private networks are fine: the services of a cluster have such ones.
pub fn may_be_named(name: &str, address: IpAddr) -> bool {
    /// Metadata of Alibaba, Oracle and Azure. That of others is link-local.
    const METADATA: [Ipv4Addr; 3] =
        [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192), Ipv4Addr::new(168, 63, 129, 16)];
    let may_be_local = name == "localhost" || name.ends_with(".localhost");
    match embedded(address) {
        IpAddr::V4(address) => {
            let [first, ..] = address.octets();
            // 0.0.0.0 is this machine, and what begins with 240 and above is reserved or a broadcast.
            let is_special = first == 0 || first >= 240 || address.is_link_local() || address.is_multicast();
            !is_special && !METADATA.contains(&address) && (may_be_local || !address.is_loopback())
        }
        IpAddr::V6(address) => {
            // Metadata of Amazon, Google, Oracle, Scaleway, Linode and Alibaba.
            let is_metadata = matches!(
                address.segments(),
                [0xfd00, 0xec2, ..]
                    | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]
                    | [0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe]
                    | [0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42]
                    | [0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1]
                    | [0xfd00, 0x100, 0, 0, 0, 0, 0x100, 0x200]
            );
            let is_special = address.is_unspecified() || address.is_multicast() || address.is_unicast_link_local();
            !is_special && !is_metadata && (may_be_local || !address.is_loopback())
        }
    }
}

/// The address of IPv4 that one of IPv6 stands for, where a gateway or the system itself translates it.
fn embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let v4 = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match v6.segments() {
        // ::1 and :: are addresses of IPv6.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => address,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 1, .., high, low]
        | [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn origin(text: &str) -> Origin {
        text.parse().unwrap()
    }

    #[test]
    fn an_origin_is_a_host_and_perhaps_a_port() {
        assert_eq!(origin("API.Example.").to_string(), "api.example:443");
        assert_eq!(origin("[::1]:8080").to_string(), "[::1]:8080");
        assert_eq!(origin("[2001:DB8::1]").to_string(), "[2001:db8::1]:443");
        assert_eq!(origin("10.0.0.1:80").to_string(), "10.0.0.1:80");
        for wrong in [
            "",
            ":",
            ":80",
            "api:",
            "api:0",
            "api:99999",
            "::1",
            "::1:80",
            "*.example",
            "*",
            "https://api",
            "api/x",
            "u@api",
            "api..",
            "0x7f.1",
            "127.1",
            "2130706433",
            "[::ffff:127.0.0.1]",
            "[::1",
            "[::1]x:80",
            "a b",
            "10.0.0.0/8",
            "[api]",
        ] {
            assert!(wrong.parse::<Origin>().is_err(), "{wrong}: {:?}", wrong.parse::<Origin>());
        }
    }

    #[test]
    fn a_request_goes_where_its_host_and_port_and_scheme_were_granted() {
        let allows = |granted: &str, host: &str, port, encrypted| {
            Host::parse(host).is_some_and(|host| origin(granted).allows(&host, port, encrypted))
        };
        assert!(allows("api.example", "API.example.", 443, true));
        assert!(
            allows("api.example:8080", "api.example", 8080, true)
                && allows("api.example:8080", "api.example", 8080, false)
        );
        assert!(allows("api.example:80", "api.example", 80, false) && allows("[::1]:80", "[0:0::1]", 80, false));
        for (granted, host, port, encrypted) in [
            ("api.example", "api.example", 443, false),
            ("api.example", "api.example", 80, false),
            ("api.example:80", "api.example", 80, true),
            ("api.example:80", "api.example", 443, true),
            ("api.example:8080", "api.example", 8081, false),
            ("api.example", "www.api.example", 443, true),
            ("api.example", "example", 443, true),
            ("api.example", "api.example..", 443, true),
            ("127.0.0.1:80", "0x7f.1", 80, false),
            ("127.0.0.1:80", "127.1", 80, false),
            ("127.0.0.1:80", "2130706433", 80, false),
            ("127.0.0.1:80", "127.0.0.1.", 80, false),
            ("127.0.0.1:80", "[::ffff:127.0.0.1]", 80, false),
            ("127.0.0.1:80", "localhost", 80, false),
            ("localhost:80", "127.0.0.1", 80, false),
        ] {
            assert!(!allows(granted, host, port, encrypted), "{granted} allows {host}:{port}");
        }
    }

    #[test]
    fn no_name_leads_to_this_machine_or_to_metadata() {
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "255.255.255.255",
            "240.0.0.1",
            "224.0.0.1",
            "ff02::1",
            "169.254.169.254",
            "169.254.0.1",
            "fe80::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "fd00:c1::a9fe:a9fe",
            "fd00:42::42",
            "fd00:a9fe:a9fe::1",
            "fd00:100::100:200",
            "100.100.100.200",
            "168.63.129.16",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::7f00:1",
            "2002:7f00:1::",
            "::7f00:1",
            "::ffff:0:127.0.0.1",
        ] {
            assert!(!may_be_named("api.example", address.parse().unwrap()), "{address}");
        }
        for address in ["10.1.2.3", "192.168.1.1", "172.16.0.1", "100.64.0.1", "fd12:3456::1", "8.8.8.8", "2001:db8::1"]
        {
            assert!(may_be_named("api.example", address.parse().unwrap()), "{address}");
        }
        for name in ["localhost", "api.localhost"] {
            assert!(may_be_named(name, "127.0.0.1".parse().unwrap()) && may_be_named(name, "::1".parse().unwrap()));
            assert!(!may_be_named(name, "169.254.169.254".parse().unwrap()));
        }
        assert!(!may_be_named("notlocalhost", "127.0.0.1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn no_text_can_make_the_reader_panic_and_what_is_read_is_read_as_it_is_shown(text in "\\PC{0,40}") {
            if let Ok(origin) = text.parse::<Origin>() {
                prop_assert_eq!(origin.to_string().parse::<Origin>(), Ok(origin));
            }
            let _ = Host::parse(&text);
        }
    }
}
