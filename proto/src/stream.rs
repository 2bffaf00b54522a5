//! Messages on a stream: each stands behind its length, four bytes in network byte order.
//!
//! What a message is, is others': [`crate::codec`]'s, or [`crate::relay`]'s. The longest that may
//! come is the reader's to say, and is checked before anything is kept.

/// Bytes of the length before every message.
pub const LENGTH_LEN: usize = 4;

/// The length before a message is above what the reader takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of {len} bytes; at most {max} are allowed")]
pub struct TooLong {
    /// The length that stands before the message.
    pub len: usize,
    /// The longest that is taken.
    pub max: usize,
}

/// Puts a message behind its length.
#[must_use]
pub fn framed(message: &[u8]) -> Vec<u8> {
    // Nothing of ours comes near 4 GiB: every message has a limit when it is encoded.
    let len = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&len.to_be_bytes(), message].concat()
}

/// What a reader keeps of its memory when it has handed out everything.
const KEPT: usize = 4096;

/// Cuts a stream of bytes into messages.
///
/// Feed what the stream yields, then take messages until there is none; what stays behind is less
/// than one message.
#[derive(Debug)]
pub struct Deframer {
    max: usize,
    buffer: Vec<u8>,
    /// How much of `buffer` has been handed out.
    taken: usize,
}

impl Deframer {
    /// A reader of a new stream, whose messages have at most `max` bytes.
    #[must_use]
    pub const fn new(max: usize) -> Self {
        Self {
            max,
            buffer: Vec::new(),
            taken: 0,
        }
    }

    /// Takes messages of at most `max` bytes from now on.
    pub const fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// Adds bytes of the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        // One long message does not cost its memory for as long as the stream lives.
        if self.buffer.is_empty() && self.buffer.capacity() > KEPT {
            self.buffer.shrink_to(KEPT);
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, without its length.
    ///
    /// # Errors
    /// The length is above the limit; the stream cannot be read any further.
    pub fn next_message(&mut self) -> Result<Option<&[u8]>, TooLong> {
        let rest = self.buffer.get(self.taken..).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<LENGTH_LEN>() else {
            return Ok(None);
        };
        let len = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if len > self.max {
            return Err(TooLong { len, max: self.max });
        }
        let Some(message) = rest.get(..len) else {
            return Ok(None);
        };
        self.taken += LENGTH_LEN + len;
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_layout_is_kept() {
        assert_eq!(framed(b"ab"), [0, 0, 0, 2, b'a', b'b']);
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_is_there() {
        let mut deframer = Deframer::new(3);
        deframer.feed(&[0, 0, 0, 3, 1, 2, 3, 0, 0, 0, 4]);
        assert_eq!(deframer.next_message(), Ok(Some(&[1, 2, 3][..])));
        let fault = deframer.next_message();
        assert_eq!(fault, Err(TooLong { len: 4, max: 3 }));
        assert_eq!(
            fault.unwrap_err().to_string(),
            "a message of 4 bytes; at most 3 are allowed"
        );
        deframer.set_max(4);
        assert_eq!(deframer.next_message(), Ok(None));
        deframer.feed(&[1, 2, 3, 4]);
        assert_eq!(deframer.next_message(), Ok(Some(&[1, 2, 3, 4][..])));
    }

    proptest! {
        #[test]
        fn messages_come_out_however_the_stream_is_cut(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
            cut in 1_usize..17,
        ) {
            let stream: Vec<u8> = messages.iter().flat_map(|message| framed(message)).collect();
            let mut deframer = Deframer::new(40);
            let mut found = Vec::new();
            for bytes in stream.chunks(cut) {
                deframer.feed(bytes);
                while let Some(message) = deframer.next_message().unwrap() {
                    found.push(message.to_vec());
                }
            }
            prop_assert_eq!(found, messages);
        }
    }
}
