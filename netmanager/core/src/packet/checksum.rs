//! The Internet checksum: whole, and by difference.
//!
//! Sums are kept as `u32` of big-endian 16-bit words, not yet folded; a [`Delta`] is the sum that
//! turns an old checksum into the new one (RFC 1624). Called by the packet rewriting, the chunk
//! layer and the rejections.

use std::net::IpAddr;

/// The difference that a change of some 16-bit aligned bytes makes to a sum over them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Delta(u32);

impl Delta {
    /// The difference between `old` and `new`, which are of one even length.
    pub(crate) fn between(old: &[u8], new: &[u8]) -> Self {
        let (old, new) = (fold(sum(old)), fold(sum(new)));
        Self(u32::from(!old) + u32::from(new))
    }

    /// Both differences.
    pub(crate) fn and(self, other: Self) -> Self {
        Self(u32::from(fold_u32(self.0)) + u32::from(fold_u32(other.0)))
    }

    /// Applies it to a checksum as it stands in a header (complemented).
    pub(crate) fn apply(self, checksum: u16) -> u16 {
        !self.apply_partial(!checksum)
    }

    /// Applies it to a pseudo-header sum (not complemented), as partial checksums have it.
    pub(crate) fn apply_partial(self, sum: u16) -> u16 {
        fold_u32(u32::from(sum) + u32::from(fold_u32(self.0)))
    }
}

/// The unfolded sum of `bytes` as big-endian words; an odd last byte is padded with zero.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(4);
    let mut total = 0u64;
    for word in words.by_ref() {
        if let Ok(word) = word.try_into() {
            total += u64::from(u32::from_be_bytes(word));
        }
    }
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(words.remainder()) {
        *to = *from;
    }
    total + u64::from(u32::from_be_bytes(last))
}

/// Folds a sum into 16 bits.
pub(crate) fn fold(mut sum: u64) -> u16 {
    sum = (sum >> 32) + (sum & 0xffff_ffff);
    sum = (sum >> 32) + (sum & 0xffff_ffff);
    fold_u32(u32::try_from(sum).unwrap_or(u32::MAX))
}

fn fold_u32(sum: u32) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    u16::try_from(sum).unwrap_or(u16::MAX)
}

/// The unfolded sum of the pseudo-header (RFC 9293, section 3.1; RFC 8200, section 8.1).
pub(crate) fn pseudo_sum(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> u64 {
    address_sum(src) + address_sum(dst) + u64::from(protocol) + u64::try_from(len).unwrap_or(0)
}

fn address_sum(ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(ip) => sum(&ip.octets()),
        IpAddr::V6(ip) => sum(&ip.octets()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, word by word.
    fn naive(bytes: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in bytes.chunks(2) {
            total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    #[test]
    fn the_longest_sum_does_not_overflow() {
        assert_eq!(fold(sum(&[0xff; 65_535])), naive(&[0xff; 65_535]));
        assert_eq!(fold(u64::MAX), 0xffff);
        assert_eq!(fold(0), 0);
    }

    #[test]
    fn rfc_1624_example() {
        // Section 4 of the RFC: 0xDD2F, a word changes from 0x5555 to 0x3285.
        let delta = Delta::between(&[0x55, 0x55], &[0x32, 0x85]);
        assert_eq!(delta.apply(0xdd2f), 0x0000);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn sum_is_the_naive_sum(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(fold(sum(&bytes)), naive(&bytes));
        }

        #[test]
        fn a_delta_is_as_good_as_summing_again(
            mut bytes in prop::collection::vec(any::<u8>(), 16..64),
            at in 0usize..6,
            new in any::<[u8; 4]>(),
        ) {
            bytes[0] |= 1; // no header is all zero
            let before = !naive(&bytes);
            let at = 2 + at * 2;
            let delta = Delta::between(&bytes[at..at + 4], &new);
            bytes[at..at + 4].copy_from_slice(&new);
            prop_assert_eq!(delta.apply(before), !naive(&bytes));
            prop_assert_eq!(delta.apply_partial(!before), naive(&bytes));
        }
    }
}
