//! A query that is asked on, and the replies that may answer it.
//!
//! The bytes go on as they came, but for their id: a fresh one, so that whoever cannot see the
//! query cannot forge its reply (RFC 5452). The shell sends it from a fresh port, and chooses the
//! id: the core has no randomness.

use super::message::{HEADER_LEN, Query, QueryError};

/// A query on its way to an upstream server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarded {
    query: Vec<u8>,
    question_len: usize,
    client_id: [u8; 2],
}

/// Why a message is not the reply to a forwarded query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// It has no whole header.
    #[error("shorter than a DNS header")]
    NoHeader,
    /// It is a query.
    #[error("a query, not a reply")]
    NotReply,
    /// It has another id.
    #[error("the reply has another id")]
    Id,
    /// It answers another question.
    #[error("the reply answers another question")]
    Question,
}

/// The reply code of a server that cannot say (RFC 1035, section 4.1.1).
const CODE_SERVER_FAILURE: u8 = 2;
/// The reply code of a server that does not do such things.
const CODE_NOT_IMPLEMENTED: u8 = 4;
/// The reply code of a server that does not want to.
const CODE_REFUSED: u8 = 5;

impl Forwarded {
    /// Prepares a query for an upstream server.
    ///
    /// # Errors
    /// Says why the bytes are no query with one question.
    pub fn new(query: &[u8], id: u16) -> Result<Self, QueryError> {
        let parsed = Query::parse(query)?;
        let name_len = 1 + parsed
            .labels
            .iter()
            .map(|label| 1 + label.len())
            .sum::<usize>();
        let mut bytes = query.to_vec();
        if let Some(place) = bytes.first_chunk_mut() {
            *place = id.to_be_bytes();
        }
        Ok(Self {
            query: bytes,
            question_len: name_len + 4,
            client_id: parsed.header.id.to_be_bytes(),
        })
    }

    /// The bytes to send upstream.
    #[must_use]
    pub fn query(&self) -> &[u8] {
        &self.query
    }

    /// Turns an upstream reply into the client's: its own id, and its question as it wrote it.
    ///
    /// # Errors
    /// Says why it is not the reply to this query; `reply` is then unchanged.
    pub fn accept(&self, reply: &mut [u8]) -> Result<Accepted, ForwardError> {
        let header: [u8; HEADER_LEN] = *reply.first_chunk().ok_or(ForwardError::NoHeader)?;
        let [id_high, id_low, flags, code, questions @ ..] = header;
        if flags & 0x80 == 0 {
            return Err(ForwardError::NotReply);
        }
        if self.query.first_chunk() != Some(&[id_high, id_low]) {
            return Err(ForwardError::Id);
        }
        let code = code & 0x0f;
        let end = HEADER_LEN + self.question_len;
        let asked = self.query.get(HEADER_LEN..end).unwrap_or_default();
        match (u16::from_be_bytes([questions[0], questions[1]]), code) {
            (1, _) => {
                let answered = reply
                    .get_mut(HEADER_LEN..end)
                    .filter(|answered| self.is_same_question(answered))
                    .ok_or(ForwardError::Question)?;
                answered.copy_from_slice(asked);
            }
            // Some servers send an error without the question.
            (0, 1..) => {}
            _ => return Err(ForwardError::Question),
        }
        if let Some(place) = reply.first_chunk_mut() {
            *place = self.client_id;
        }
        Ok(match code {
            CODE_SERVER_FAILURE | CODE_NOT_IMPLEMENTED | CODE_REFUSED => Accepted::Failure,
            _ => Accepted::Answer,
        })
    }

    /// Whether a question is ours, letter case in the name aside.
    fn is_same_question(&self, answered: &[u8]) -> bool {
        let end = HEADER_LEN + self.question_len;
        let asked = self.query.get(HEADER_LEN..end).unwrap_or_default();
        let (name, kind) = asked.split_at(asked.len().saturating_sub(4));
        let (answered_name, answered_kind) = answered.split_at(answered.len().saturating_sub(4));
        kind == answered_kind && name.eq_ignore_ascii_case(answered_name)
    }
}

/// What an upstream server's reply is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It is the answer.
    Answer,
    /// This server cannot say; another may.
    Failure,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query() -> Vec<u8> {
        let mut query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
        query.extend_from_slice(b"\x07ExAmPlE\x03com\x00\x00\x01\x00\x01");
        query
    }

    fn reply_to(sent: &[u8]) -> Vec<u8> {
        let mut reply = sent.to_vec();
        reply[2] |= 0x80;
        reply
            .extend_from_slice(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x01\x02\x03\x04");
        reply[7] = 1;
        reply
    }

    #[test]
    fn the_id_is_fresh_and_the_client_gets_its_own_back() {
        let forwarded = Forwarded::new(&query(), 0xabcd).unwrap();
        assert_eq!(forwarded.query()[..2], [0xab, 0xcd]);
        assert_eq!(forwarded.query()[2..], query()[2..]);
        let mut reply = reply_to(forwarded.query());
        assert_eq!(forwarded.accept(&mut reply), Ok(Accepted::Answer));
        assert_eq!(reply, reply_to(&query()));
    }

    #[test]
    fn the_client_gets_its_letter_case_back() {
        let forwarded = Forwarded::new(&query(), 1).unwrap();
        let mut reply = reply_to(&forwarded.query().to_ascii_lowercase());
        assert_eq!(forwarded.accept(&mut reply), Ok(Accepted::Answer));
        assert_eq!(reply, reply_to(&query()));
    }

    #[test]
    fn foreign_replies_are_refused_and_left_alone() {
        let forwarded = Forwarded::new(&query(), 0xabcd).unwrap();
        let change = |index: usize, value: u8| {
            let mut reply = reply_to(forwarded.query());
            reply[index] = value;
            reply
        };
        let cases = [
            (vec![], ForwardError::NoHeader),
            (forwarded.query()[..11].to_vec(), ForwardError::NoHeader),
            (forwarded.query().to_vec(), ForwardError::NotReply),
            (change(0, 0), ForwardError::Id),
            (change(1, 0), ForwardError::Id),
            (change(14, b'y'), ForwardError::Question),
            // Another type, another class, no question, two questions.
            (change(26, 28), ForwardError::Question),
            (change(28, 3), ForwardError::Question),
            (change(5, 0), ForwardError::Question),
            (change(5, 2), ForwardError::Question),
            (reply_to(&forwarded.query()[..20]), ForwardError::Question),
        ];
        for (mut reply, expected) in cases {
            let before = reply.clone();
            assert_eq!(forwarded.accept(&mut reply), Err(expected), "{before:x?}");
            assert_eq!(reply, before);
        }
    }

    #[test]
    fn failures_are_told_apart_from_answers() {
        let forwarded = Forwarded::new(&query(), 0xabcd).unwrap();
        for (code, expected) in [
            (0, Accepted::Answer),
            (2, Accepted::Failure),
            (3, Accepted::Answer),
            (4, Accepted::Failure),
            (5, Accepted::Failure),
        ] {
            let mut reply = reply_to(forwarded.query());
            reply[3] = code;
            assert_eq!(forwarded.accept(&mut reply), Ok(expected), "{code}");
        }
        let mut bare = forwarded.query()[..12].to_vec();
        (bare[2], bare[3], bare[5]) = (0x81, 5, 0);
        assert_eq!(forwarded.accept(&mut bare), Ok(Accepted::Failure));
        assert_eq!(bare[..2], [0x12, 0x34]);
    }

    #[test]
    fn what_is_no_query_is_not_forwarded() {
        assert_eq!(Forwarded::new(&[], 1), Err(QueryError::NoHeader));
        assert_eq!(
            Forwarded::new(&reply_to(&query()), 1),
            Err(QueryError::Response)
        );
    }
}
