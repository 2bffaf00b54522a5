//! The NAT types of a lab's routers, as nft rules.
//!
//! Each flavour behaves as its name says (RFC 4787: mapping and filtering), which
//! `tests/nat.rs` verifies with plain UDP sockets. Pure text: the lab feeds it to `nft`.

use std::fmt::Write as _;

use crate::description::Routing;

/// How a router translates one address family towards its WAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Nat {
    /// No translation: packets are routed.
    #[default]
    None,
    /// One mapping per inside port; answers only from the address and port that was sent to.
    PortRestricted,
    /// A new random mapping per destination; the filter is as strict.
    Symmetric,
    /// One mapping per inside port, open to everyone.
    FullCone,
    /// One mapping per inside port, open to every port of the addresses that were sent to.
    AddressRestricted,
    /// A new mapping per destination, its port the next of a fixed sequence.
    SequentialSymmetric,
}

/// The first port that [`Nat::SequentialSymmetric`] hands out.
pub const SEQUENTIAL_FIRST_PORT: u16 = 20_000;

/// How many ports [`Nat::SequentialSymmetric`] cycles through: enough for any test, and a map
/// that nft loads at once.
pub const SEQUENTIAL_PORTS: u16 = 512;

/// The lifetime of a cone mapping in the router's own maps, as nft writes it.
const MAPPING_LIFETIME: &str = "120s";

/// One address family of nft rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn table(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    fn address(self) -> &'static str {
        match self {
            Self::V4 => "ipv4_addr",
            Self::V6 => "ipv6_addr",
        }
    }
}

/// Writes the ruleset of a router whose outside interface is `wan`.
pub(crate) fn ruleset(routing: &Routing, wan: &str) -> String {
    let mut text = String::new();
    translation(&mut text, routing.v4, Family::V4, wan);
    translation(&mut text, routing.v6, Family::V6, wan);
    filter(&mut text, routing, wan);
    text
}

fn translation(text: &mut String, nat: Nat, family: Family, wan: &str) {
    let (sets, pre, post) = match nat {
        Nat::None => return,
        Nat::PortRestricted => (
            String::new(),
            String::new(),
            format!("oifname \"{wan}\" masquerade;"),
        ),
        Nat::Symmetric => (
            String::new(),
            String::new(),
            format!("oifname \"{wan}\" masquerade fully-random;"),
        ),
        Nat::FullCone => cone(family, wan, false),
        Nat::AddressRestricted => cone(family, wan, true),
        Nat::SequentialSymmetric => (String::new(), String::new(), sequential(wan)),
    };
    let table = family.table();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "table {table} lab-nat {{\n{sets}\
         chain pre {{ type nat hook prerouting priority -100; {pre} }}\n\
         chain post {{ type nat hook postrouting priority 100; {post} }}\n}}"
    );
}

/// Rules for the two cones: own maps remember who sent from which port, and let others in.
///
/// The port outside is the port inside, so two inside hosts must not use the same one.
fn cone(family: Family, wan: &str, address_restricted: bool) -> (String, String, String) {
    let (ip, address) = (family.table(), family.address());
    let options = format!("flags dynamic,timeout; timeout {MAPPING_LIFETIME}; size 65535;");
    let mut sets = format!("map eim {{ type inet_service : {address}; {options} }}\n");
    let mut seen = String::new();
    let mut remember = format!("update @eim {{ udp sport : {ip} saddr }}");
    if address_restricted {
        let _ = writeln!(
            sets,
            "set seen {{ type {address} . inet_service; {options} }}"
        );
        seen = format!("{ip} saddr . udp dport @seen ");
        let _ = write!(remember, " update @seen {{ {ip} daddr . udp sport }}");
    }
    let pre = format!(
        "iifname \"{wan}\" fib daddr type local meta l4proto udp {seen}\
         dnat {ip} to udp dport map @eim;"
    );
    let post = format!(
        "oifname \"{wan}\" meta l4proto udp fib saddr type != local {remember}; \
         oifname \"{wan}\" masquerade;"
    );
    (sets, pre, post)
}

fn sequential(wan: &str) -> String {
    let ports: Vec<String> = (0..SEQUENTIAL_PORTS)
        .map(|index| format!("{index} : {}", SEQUENTIAL_FIRST_PORT + index))
        .collect();
    format!(
        "oifname \"{wan}\" meta l4proto udp masquerade to :numgen inc mod {SEQUENTIAL_PORTS} \
         map {{ {} }}; oifname \"{wan}\" masquerade;",
        ports.join(", ")
    )
}

fn filter(text: &mut String, routing: &Routing, wan: &str) {
    if !routing.drop_unsolicited && !routing.block_udp {
        return;
    }
    let mut input = String::new();
    let mut forward = String::new();
    if routing.block_udp {
        let _ = write!(forward, "meta l4proto udp drop; ");
    }
    if routing.drop_unsolicited {
        // What a cone's own map let in was translated, and is wanted.
        let _ = write!(
            forward,
            "iifname \"{wan}\" ct status dnat accept; iifname \"{wan}\" ct state new drop; "
        );
        let _ = write!(input, "iifname \"{wan}\" ct state new drop; ");
    }
    let _ = writeln!(
        text,
        "table inet lab-filter {{\n\
         chain input {{ type filter hook input priority 0; {input}}}\n\
         chain forward {{ type filter hook forward priority 0; {forward}}}\n}}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routing(v4: Nat) -> Routing {
        Routing {
            v4,
            v6: Nat::None,
            drop_unsolicited: false,
            block_udp: false,
        }
    }

    #[test]
    fn a_plain_router_needs_no_rules() {
        assert_eq!(ruleset(&routing(Nat::None), "wan"), "");
    }

    #[test]
    fn a_filter_names_only_the_outside_interface() {
        let text = ruleset(
            &Routing {
                drop_unsolicited: true,
                ..routing(Nat::PortRestricted)
            },
            "wan",
        );
        assert!(text.contains("iifname \"wan\" ct state new drop"), "{text}");
        assert!(text.contains("oifname \"wan\" masquerade;"), "{text}");
        assert!(!text.contains("ip6"), "{text}");
    }

    #[test]
    fn the_sequence_is_written_out() {
        let text = ruleset(&routing(Nat::SequentialSymmetric), "wan");
        assert!(text.contains("0 : 20000, 1 : 20001"), "{text}");
    }
}
