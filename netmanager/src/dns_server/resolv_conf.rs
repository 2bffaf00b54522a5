//! The upstream servers that a host's resolv.conf names.

use std::net::{IpAddr, SocketAddr};

const DNS_PORT: u16 = 53;

/// As many servers as libc reads from a resolv.conf; the rest are ignored there as well.
const MAX_SERVERS: usize = 3;

/// The servers of a resolv.conf, in its order. Link-local ones with a zone are left out.
#[must_use]
pub fn upstreams_of(resolv_conf: &str) -> Vec<SocketAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let ip: IpAddr = match (words.next(), words.next()) {
                (Some("nameserver"), Some(address)) => address.parse().ok()?,
                _ => return None,
            };
            Some(SocketAddr::new(ip, DNS_PORT))
        })
        .take(MAX_SERVERS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::upstreams_of;

    #[test]
    fn servers_are_read_in_order_and_the_rest_is_skipped() {
        let text = "# nameserver 9.9.9.9\nsearch example.com\nnameserver 192.0.2.1 # first\n\
            \tnameserver\t2001:db8::1\nnameserver fe80::1%eth0\nnameserver\nnameserver x\n\
            nameserver 192.0.2.3\nnameserver 192.0.2.4\n";
        let servers: Vec<String> = upstreams_of(text).iter().map(ToString::to_string).collect();
        assert_eq!(
            servers,
            ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.3:53"]
        );
        assert!(upstreams_of("").is_empty());
    }
}
