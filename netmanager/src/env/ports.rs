//! Which ports of the host programs have, as the kernel lists them.
//!
//! Looking disturbs nobody, where binding a port to see whether it is free would keep a program
//! from having it at that moment.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use weald_proto::table::Transport;

/// The state of a TCP socket that listens, in the kernel's lists.
const LISTENING: &str = "0A";

/// The state of a UDP socket that takes datagrams from anyone, in the kernel's lists.
const UNCONNECTED: &str = "07";

/// The ports that programs in the calling thread's namespace serve.
pub(super) fn served() -> io::Result<BTreeSet<(u16, Transport)>> {
    let mut ports = BTreeSet::new();
    for (list, transport) in [
        ("tcp", Transport::Tcp),
        ("tcp6", Transport::Tcp),
        ("udp", Transport::Udp),
        ("udp6", Transport::Udp),
    ] {
        match fs::read_to_string(format!("/proc/thread-self/net/{list}")) {
            Ok(text) => ports.extend(parse(&text, transport)),
            // A host without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(ports)
}

fn parse(list: &str, transport: Transport) -> impl Iterator<Item = (u16, Transport)> {
    let serving = match transport {
        Transport::Tcp => LISTENING,
        Transport::Udp => UNCONNECTED,
    };
    list.lines().skip(1).filter_map(move |line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, _remote, state) = (fields.next()?, fields.next()?, fields.next()?);
        let (_, port) = local.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        (state == serving).then_some((port, transport))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serving_sockets_are_told_from_connected_ones() {
        let tcp = "  sl  local_address rem_address   st tx_queue rx_queue
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000
   1: 0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000
   2: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 0A 0
 nonsense
";
        let found: Vec<_> = parse(tcp, Transport::Tcp).collect();
        assert_eq!(found, [(8080, Transport::Tcp), (53, Transport::Tcp)]);
        let udp = tcp.replace(" 0A ", " 07 ");
        assert_eq!(parse(&udp, Transport::Tcp).count(), 0);
        assert_eq!(parse(&udp, Transport::Udp).count(), 2);
    }
}
