//! Datagrams on a stream, as between a node and a relay over TLS: each behind its length, two bytes
//! in network byte order.
//!
//! They are those of the data socket, QUIC packets and frames alike ([`crate::frame`]); this is for
//! networks that let no UDP through.

/// The ALPN of the TLS connection that carries them.
pub const TCP_ALPN: &[u8] = b"weald-relay-tcp/1";
/// The TCP port of a relay unless another one is named: what networks let through that let nothing
/// else through.
pub const DEFAULT_TCP_PORT: u16 = 443;
/// Bytes of the length before every datagram.
pub const LENGTH_LEN: usize = 2;
/// Bytes of the longest datagram: what an Ethernet of 1500 bytes carries under IPv4 and UDP, as on
/// the data socket.
pub const MAX_LEN: usize = 1472;

/// A length that no datagram has; the stream cannot be read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a datagram of {len} bytes; between 1 and {MAX_LEN} are allowed")]
pub struct NoDatagram {
    /// The length that stands there.
    pub len: usize,
}

/// Appends a datagram behind its length.
///
/// # Errors
/// It is empty or too long; nothing is appended.
pub fn append(out: &mut Vec<u8>, datagram: &[u8]) -> Result<(), NoDatagram> {
    let len = datagram.len();
    let length = u16::try_from(len).ok().filter(|_| is_length(len));
    let length = length.ok_or(NoDatagram { len })?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(datagram);
    Ok(())
}

/// Cuts a stream of bytes into datagrams.
///
/// Feed what the stream yields, then take datagrams until there is none; what stays behind is less
/// than one of them.
#[derive(Debug, Default)]
pub struct Datagrams {
    buffer: Vec<u8>,
    /// How much of `buffer` has been handed out.
    taken: usize,
}

impl Datagrams {
    /// Adds bytes of the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole datagram, without its length.
    ///
    /// # Errors
    /// There stands a length that no datagram has.
    pub fn next_datagram(&mut self) -> Result<Option<&[u8]>, NoDatagram> {
        let rest = self.buffer.get(self.taken..).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<LENGTH_LEN>() else {
            return Ok(None);
        };
        let len = usize::from(u16::from_be_bytes(*length));
        if !is_length(len) {
            return Err(NoDatagram { len });
        }
        let Some(datagram) = rest.get(..len) else {
            return Ok(None);
        };
        self.taken += LENGTH_LEN + len;
        Ok(Some(datagram))
    }
}

const fn is_length(len: usize) -> bool {
    len > 0 && len <= MAX_LEN
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden() {
        let mut out = vec![9];
        append(&mut out, b"ab").unwrap();
        append(&mut out, &[7; 300]).unwrap();
        assert_eq!(out[..9], [9, 0, 2, b'a', b'b', 1, 44, 7, 7]);
        assert_eq!(out.len(), 1 + 2 + 2 + 2 + 300);
    }

    #[test]
    fn lengths_that_no_datagram_has_are_refused_on_both_ends() {
        let mut out = Vec::new();
        append(&mut out, &[1; MAX_LEN]).unwrap();
        for len in [0, MAX_LEN + 1, 65_535, 65_536 + 1] {
            assert_eq!(append(&mut out, &vec![1; len]), Err(NoDatagram { len }));
        }
        assert_eq!(out.len(), LENGTH_LEN + MAX_LEN);
        for length in [[0, 0], [5, 193], [255, 255]] {
            let mut datagrams = Datagrams::default();
            datagrams.feed(&[0, 1, 8]);
            datagrams.feed(&length);
            assert_eq!(datagrams.next_datagram(), Ok(Some(&[8][..])));
            let len = usize::from(u16::from_be_bytes(length));
            assert_eq!(datagrams.next_datagram(), Err(NoDatagram { len }));
        }
    }

    proptest! {
        #[test]
        fn datagrams_come_out_however_the_stream_is_cut(
            datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            cut in 1_usize..17,
        ) {
            let mut stream = Vec::new();
            for datagram in &datagrams {
                append(&mut stream, datagram).unwrap();
            }
            let mut reader = Datagrams::default();
            let mut found = Vec::new();
            for bytes in stream.chunks(cut) {
                reader.feed(bytes);
                while let Some(datagram) = reader.next_datagram().unwrap() {
                    found.push(datagram.to_vec());
                }
            }
            prop_assert_eq!(found, datagrams);
        }
    }
}
