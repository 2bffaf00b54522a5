//! Who is at the other end of a connection: its address, and on loopback the user of its process.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Both ends of the connection on which a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peer {
    /// The other end.
    pub(super) remote: SocketAddr,
    /// This end.
    pub(super) local: SocketAddr,
    /// Whether the connection is TLS.
    pub(super) tls: bool,
}

impl Peer {
    /// Whether the other end is on this machine.
    pub(super) fn is_loopback(&self) -> bool {
        self.remote.ip().to_canonical().is_loopback()
    }

    /// Whether the other end's socket belongs to the user of this process. The kernel's table of
    /// connections says so; it is read, so this blocks for a moment.
    pub(super) fn is_same_user(&self) -> bool {
        let own = rustix::process::geteuid().as_raw();
        let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
        let owner = tables.iter().find_map(|table| {
            let text = fs::read_to_string(table).ok()?;
            owner(&text, self.remote, self.local)
        });
        self.is_loopback() && owner == Some(own)
    }
}

/// The user of the socket whose own address is `own` and whose peer's is `other`.
fn owner(table: &str, own: SocketAddr, other: SocketAddr) -> Option<u32> {
    let wanted = (canonical(own), canonical(other));
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let local = address(fields.nth(1)?)?;
        let remote = address(fields.next()?)?;
        // State, queues, timer and retransmissions stand before the user.
        let user = fields.nth(4)?.parse().ok()?;
        ((canonical(local), canonical(remote)) == wanted).then_some(user)
    })
}

fn canonical(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

/// An address as the kernel writes it: words of the processor's byte order, in hexadecimal.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Option<Vec<u32>> = (0..ip.len())
        .step_by(8)
        .map(|at| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok())
        .collect();
    let bytes: Vec<u8> = words?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let ip = match bytes.len() {
        4 => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_kernel_says_whose_a_socket_is() {
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(bind).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (_, remote) = listener.accept().unwrap();
            let local = listener.local_addr().unwrap();
            let mut peer = Peer {
                remote,
                local,
                tls: false,
            };
            assert!(peer.is_same_user(), "{bind}");
            // Nobody has this one.
            peer.local.set_port(1);
            assert!(!peer.is_same_user(), "{bind}");
            drop(client);
        }
    }

    #[test]
    fn tables_are_read_and_garbage_is_not() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:C350 0100007F:2710 01 00000000:00000000 00:00000000 00000000  1000        0 1 1\n";
        let own = "127.0.0.1:50000".parse().unwrap();
        let other = "127.0.0.1:10000".parse().unwrap();
        assert_eq!(owner(table, own, other), Some(1000));
        assert_eq!(owner(table, other, own), None);
        let mapped = "[::ffff:127.0.0.1]:50000".parse().unwrap();
        assert_eq!(owner(table, mapped, other), Some(1000));
        for text in [
            "",
            ":",
            "0100007F",
            "0100007F:x",
            "01:1",
            "zz00007F:1",
            "äääääääää:1",
        ] {
            assert_eq!(address(text), None, "{text}");
        }
        assert_eq!(owner("a\nb c\n", own, other), None);
    }
}
