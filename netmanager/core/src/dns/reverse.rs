//! Reverse names: which address a name below `in-addr.arpa` or `ip6.arpa` stands for.
//!
//! Those of the pools are ours, whole or in part, whether anything has the address or not: no
//! question about an overlay address is ever asked on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weald_proto::addr::Pools;

/// A reverse name within one of the pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReverseName {
    /// Index of the first label of the pool's own reverse zone.
    pub(crate) apex: usize,
    /// What the name stands for.
    pub(crate) kind: ReverseKind,
}

/// What a reverse name within a pool stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReverseKind {
    /// One address.
    Address(IpAddr),
    /// The prefix of several addresses, so there are names below it.
    Prefix,
    /// Nothing: a label is not the digit that it should be, or there are too many.
    Nothing,
}

const IPV4_ROOT: [&[u8]; 2] = [b"in-addr", b"arpa"];
const IPV6_ROOT: [&[u8]; 2] = [b"ip6", b"arpa"];

/// IPv4 names have a label for each byte.
const IPV4_LABEL_BITS: u8 = 8;
/// IPv6 names have a label for each nibble.
const IPV6_LABEL_BITS: u8 = 4;

impl ReverseName {
    /// Reads a reverse name; none when it is none, or outside the pools.
    pub(crate) fn of(labels: &[&[u8]], pools: &Pools) -> Option<Self> {
        let (rest, root) = labels.split_at_checked(labels.len().checked_sub(2)?)?;
        let is = |of: [&[u8]; 2]| root.iter().zip(of).all(|(a, b)| a.eq_ignore_ascii_case(b));
        if is(IPV4_ROOT) {
            let digits = Digits::read(rest, 4, decimal_byte);
            let mut bytes = [0; 4];
            bytes
                .iter_mut()
                .zip(&digits.values)
                .for_each(|(byte, value)| *byte = *value);
            let ip = IpAddr::V4(Ipv4Addr::from(bytes));
            Self::within(
                rest,
                &digits,
                ip,
                pools,
                pools.v4.prefix().div_ceil(IPV4_LABEL_BITS),
            )
        } else if is(IPV6_ROOT) {
            let digits = Digits::read(rest, 32, hexadecimal_digit);
            let mut bits = 0;
            for index in 0..32 {
                bits = bits << 4 | u128::from(digits.values.get(index).copied().unwrap_or(0));
            }
            let ip = IpAddr::V6(Ipv6Addr::from(bits));
            Self::within(
                rest,
                &digits,
                ip,
                pools,
                pools.v6.prefix().div_ceil(IPV6_LABEL_BITS),
            )
        } else {
            None
        }
    }

    /// `pool_labels` is how many labels it takes to be inside the pool for certain.
    fn within(
        rest: &[&[u8]],
        digits: &Digits,
        ip: IpAddr,
        pools: &Pools,
        pool_labels: u8,
    ) -> Option<Self> {
        let pool_labels = usize::from(pool_labels);
        if digits.values.len() < pool_labels || !pools.contains(ip) {
            return None;
        }
        let kind = match digits.end {
            End::Full => ReverseKind::Address(ip),
            End::Early => ReverseKind::Prefix,
            End::Wrong => ReverseKind::Nothing,
        };
        Some(Self {
            apex: rest.len() - pool_labels,
            kind,
        })
    }
}

/// The digits of a reverse name, most significant first, as far as they are digits.
struct Digits {
    values: Vec<u8>,
    end: End,
}

enum End {
    /// As many as an address has.
    Full,
    /// Fewer.
    Early,
    /// Something else follows.
    Wrong,
}

impl Digits {
    fn read(labels: &[&[u8]], full: usize, digit: fn(&[u8]) -> Option<u8>) -> Self {
        let values: Vec<u8> = labels
            .iter()
            .rev()
            .take(full)
            .map_while(|label| digit(label))
            .collect();
        let end = if values.len() < labels.len() {
            End::Wrong
        } else if values.len() < full {
            End::Early
        } else {
            End::Full
        };
        Self { values, end }
    }
}

/// A byte in decimal, written in its one canonical way.
fn decimal_byte(label: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(label).ok()?;
    let value: u8 = text.parse().ok()?;
    (value.to_string() == text).then_some(value)
}

fn hexadecimal_digit(label: &[u8]) -> Option<u8> {
    match label {
        [digit] => char::from(*digit)
            .to_digit(16)
            .and_then(|value| u8::try_from(value).ok()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str) -> Option<ReverseName> {
        let labels: Vec<&[u8]> = name.split('.').map(str::as_bytes).collect();
        ReverseName::of(&labels, &Pools::default())
    }

    fn kind(name: &str) -> Option<ReverseKind> {
        read(name).map(|name| name.kind)
    }

    #[test]
    fn names_of_the_pools_are_ours_and_others_are_not() {
        let address = |ip: &str| Some(ReverseKind::Address(ip.parse().unwrap()));
        let fdff = "f.f.d.f.ip6.arpa";
        let zeros = "0.".repeat(27);
        let cases = [
            ("7.1.30.10.in-addr.arpa", address("10.30.1.7")),
            ("7.1.30.10.IN-ADDR.ARPA", address("10.30.1.7")),
            ("30.10.in-addr.arpa", Some(ReverseKind::Prefix)),
            ("1.30.10.in-addr.arpa", Some(ReverseKind::Prefix)),
            ("x.30.10.in-addr.arpa", Some(ReverseKind::Nothing)),
            ("01.1.30.10.in-addr.arpa", Some(ReverseKind::Nothing)),
            ("+1.1.30.10.in-addr.arpa", Some(ReverseKind::Nothing)),
            ("256.1.30.10.in-addr.arpa", Some(ReverseKind::Nothing)),
            ("9.7.1.30.10.in-addr.arpa", Some(ReverseKind::Nothing)),
            ("10.in-addr.arpa", None),
            ("in-addr.arpa", None),
            ("arpa", None),
            ("7.1.31.10.in-addr.arpa", None),
            ("7.1.30.10.in-addr.arpa.local", None),
        ];
        for (name, expected) in cases {
            assert_eq!(kind(name), expected, "{name}");
        }
        assert_eq!(kind(fdff), Some(ReverseKind::Prefix));
        assert_eq!(kind("d.f.ip6.arpa"), None);
        assert_eq!(kind(&format!("a.{zeros}{fdff}")), address("fdff::a"));
        assert_eq!(kind(&format!("A.{zeros}{fdff}")), address("fdff::a"));
        assert_eq!(
            kind(&format!("1.a.{zeros}{fdff}")),
            Some(ReverseKind::Nothing)
        );
        assert_eq!(
            kind(&format!("aa.{zeros}{fdff}")),
            Some(ReverseKind::Nothing)
        );
    }

    #[test]
    fn the_apex_is_the_pool() {
        assert_eq!(read("7.1.30.10.in-addr.arpa").unwrap().apex, 2);
        assert_eq!(read("30.10.in-addr.arpa").unwrap().apex, 0);
        assert_eq!(read("x.y.30.10.in-addr.arpa").unwrap().apex, 2);
    }

    #[test]
    fn a_pool_between_two_labels_is_ours_exactly() {
        let pools = Pools {
            v4: "10.16.0.0/12".parse().unwrap(),
            ..Pools::default()
        };
        let read = |name: &str| {
            let labels: Vec<&[u8]> = name.split('.').map(str::as_bytes).collect();
            ReverseName::of(&labels, &pools)
        };
        assert!(read("31.10.in-addr.arpa").is_some());
        assert!(read("32.10.in-addr.arpa").is_none());
        assert!(read("10.in-addr.arpa").is_none());
    }
}
