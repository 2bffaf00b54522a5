//! A checked view of one DNS query: header, question and EDNS, and nothing else.
//!
//! It reads what decides about an answer and skips the rest without following a compression
//! pointer or allocating for a record, so a query costs time linear in its length. It builds no
//! messages: that is `response`'s. The resolver and the fuzz target call it.

use std::fmt;

/// The longest query that is looked at. A name, an OPT record and its options are far shorter;
/// zone transfers and updates, which may be long, are not served.
pub const MAX_QUERY_LEN: usize = 4096;

/// The length of a DNS header (RFC 1035, section 4.1.1).
pub(crate) const HEADER_LEN: usize = 12;

/// The longest name on the wire, with its root label (RFC 1035, section 2.3.4).
pub(crate) const MAX_NAME_LEN: usize = 255;

/// The smallest UDP payload that everybody must take (RFC 1035, section 2.3.4).
pub const MIN_UDP_PAYLOAD: u16 = 512;

/// The only class that is answered: Internet.
pub(crate) const CLASS_IN: u16 = 1;

const OPCODE_QUERY: u8 = 0;
const TYPE_OPT: u16 = 41;
const POINTER_BITS: u8 = 0b1100_0000;

/// The fields of a query's header that are answered to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueryHeader {
    /// The number by which the client knows its answer.
    pub id: u16,
    /// What kind of query it is; 0 asks for records.
    pub opcode: u8,
    /// Whether the client wants the question asked on.
    pub recursion_desired: bool,
    /// Whether the client does DNSSEC validation itself.
    pub checking_disabled: bool,
}

/// A query with one question.
#[derive(Clone, PartialEq, Eq)]
pub struct Query<'a> {
    /// The header.
    pub header: QueryHeader,
    /// The labels of the name asked for, as sent, leftmost first, without the root.
    pub labels: Vec<&'a [u8]>,
    /// The type of the records asked for.
    pub record_type: u16,
    /// The class of the records asked for.
    pub class: u16,
    /// What the client says of itself by EDNS.
    pub edns: Option<QueryEdns>,
}

/// The OPT record of a query (RFC 6891).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueryEdns {
    /// The largest answer that the client takes over UDP, never below [`MIN_UDP_PAYLOAD`].
    pub udp_payload: u16,
    /// The version of EDNS that the client speaks.
    pub version: u8,
    /// Whether the client wants DNSSEC records.
    pub dnssec_ok: bool,
}

/// Why bytes are not a query that can be answered with records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// There is no whole header: nobody to answer.
    #[error("shorter than a DNS header")]
    NoHeader,
    /// It is a response; answering one could start a loop.
    #[error("a response, not a query")]
    Response,
    /// An opcode other than QUERY.
    #[error("opcode {} is not served", .0.opcode)]
    Opcode(QueryHeader),
    /// The message contradicts itself or the standard.
    #[error("malformed query: {1}")]
    Malformed(QueryHeader, Malformation),
}

/// What is wrong with a malformed query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformation {
    /// More bytes than [`MAX_QUERY_LEN`].
    #[error("longer than {MAX_QUERY_LEN} bytes")]
    TooLong,
    /// Not exactly one question.
    #[error("not exactly one question")]
    QuestionCount,
    /// Records that only answers have.
    #[error("a query with answers")]
    AnswerCount,
    /// The message ends inside a name or a record.
    #[error("ends too early")]
    Truncated,
    /// A name is longer than 255 bytes, compressed where it must not be, or of an unknown form.
    #[error("bad name")]
    Name,
    /// More than one OPT record, or one that is not at the root.
    #[error("bad OPT record")]
    Edns,
    /// Bytes after the last record.
    #[error("bytes after the last record")]
    TrailingBytes,
}

impl<'a> Query<'a> {
    /// Reads a query.
    ///
    /// # Errors
    /// Says why the bytes cannot be answered with records, and whom to tell.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, QueryError> {
        let mut reader = Reader { bytes, position: 0 };
        let raw = RawHeader::read(&mut reader).map_err(|_| QueryError::NoHeader)?;
        if raw.response {
            return Err(QueryError::Response);
        }
        let header = raw.header;
        if header.opcode != OPCODE_QUERY {
            return Err(QueryError::Opcode(header));
        }
        let body = if bytes.len() > MAX_QUERY_LEN {
            Err(Malformation::TooLong)
        } else {
            Self::parse_body(&raw, &mut reader)
        };
        body.map_err(|why| QueryError::Malformed(header, why))
    }

    fn parse_body(raw: &RawHeader, reader: &mut Reader<'a>) -> Result<Self, Malformation> {
        if raw.questions != 1 {
            return Err(Malformation::QuestionCount);
        }
        if raw.answers != 0 {
            return Err(Malformation::AnswerCount);
        }
        let labels = reader.question_name()?;
        let record_type = reader.u16()?;
        let class = reader.u16()?;
        for _ in 0..raw.authorities {
            if reader.record()?.record_type == TYPE_OPT {
                return Err(Malformation::Edns);
            }
        }
        let mut edns = None;
        for _ in 0..raw.additionals {
            let record = reader.record()?;
            if record.record_type == TYPE_OPT
                && (!record.at_root || edns.replace(QueryEdns::from_record(&record)).is_some())
            {
                return Err(Malformation::Edns);
            }
        }
        if reader.position != reader.bytes.len() {
            return Err(Malformation::TrailingBytes);
        }
        Ok(Self {
            header: raw.header,
            labels,
            record_type,
            class,
            edns,
        })
    }
}

impl fmt::Debug for Query<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Query")
            .field("header", &self.header)
            .field("name", &EscapedName(&self.labels))
            .field("record_type", &self.record_type)
            .field("class", &self.class)
            .field("edns", &self.edns)
            .finish()
    }
}

/// Shows labels from the wire with everything escaped that could be mistaken for something else.
struct EscapedName<'a>(&'a [&'a [u8]]);

impl fmt::Debug for EscapedName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for label in self.0 {
            write!(f, "{}.", label.escape_ascii())?;
        }
        Ok(())
    }
}

impl QueryEdns {
    /// An OPT record keeps its payload size in the class and everything else in the TTL.
    fn from_record(record: &RecordHead) -> Self {
        let [_, version, flags, _] = record.ttl.to_be_bytes();
        Self {
            udp_payload: record.class.max(MIN_UDP_PAYLOAD),
            version,
            dnssec_ok: flags & 0x80 != 0,
        }
    }
}

/// The whole header, counts and all.
struct RawHeader {
    header: QueryHeader,
    response: bool,
    questions: u16,
    answers: u16,
    authorities: u16,
    additionals: u16,
}

impl RawHeader {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformation> {
        let id = reader.u16()?;
        let [high, low] = reader.u16()?.to_be_bytes();
        Ok(Self {
            header: QueryHeader {
                id,
                opcode: (high >> 3) & 0x0f,
                recursion_desired: high & 0x01 != 0,
                checking_disabled: low & 0x10 != 0,
            },
            response: high & 0x80 != 0,
            questions: reader.u16()?,
            answers: reader.u16()?,
            authorities: reader.u16()?,
            additionals: reader.u16()?,
        })
    }
}

/// The fixed fields of a record.
struct RecordHead {
    at_root: bool,
    record_type: u16,
    class: u16,
    ttl: u32,
}

/// Reads forward only, so that it always ends.
struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformation> {
        let end = self.position + len;
        let taken = self
            .bytes
            .get(self.position..end)
            .ok_or(Malformation::Truncated)?;
        self.position = end;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Malformation> {
        match self.take(1)? {
            [byte] => Ok(*byte),
            _ => Err(Malformation::Truncated),
        }
    }

    fn u16(&mut self) -> Result<u16, Malformation> {
        Ok(u16::from_be_bytes([self.u8()?, self.u8()?]))
    }

    fn u32(&mut self) -> Result<u32, Malformation> {
        Ok(u32::from(self.u16()?) << 16 | u32::from(self.u16()?))
    }

    /// The name of the first question. There is nothing before it that it could point to.
    fn question_name(&mut self) -> Result<Vec<&'a [u8]>, Malformation> {
        let start = self.position;
        let mut labels = Vec::new();
        loop {
            let len = self.u8()?;
            if len == 0 {
                break;
            }
            if len & POINTER_BITS != 0 {
                return Err(Malformation::Name);
            }
            labels.push(self.take(usize::from(len))?);
            // The root label is still to come.
            if self.position - start >= MAX_NAME_LEN {
                return Err(Malformation::Name);
            }
        }
        Ok(labels)
    }

    /// Skips the name of a record and says whether it is the root. A pointer ends a name, so it
    /// need not be followed.
    fn skip_name(&mut self) -> Result<bool, Malformation> {
        let start = self.position;
        loop {
            let len = self.u8()?;
            match len & POINTER_BITS {
                0 if len == 0 => return Ok(self.position - start == 1),
                0 => {
                    self.take(usize::from(len))?;
                }
                POINTER_BITS => {
                    self.u8()?;
                    return Ok(false);
                }
                _ => return Err(Malformation::Name),
            }
            if self.position - start >= MAX_NAME_LEN {
                return Err(Malformation::Name);
            }
        }
    }

    fn record(&mut self) -> Result<RecordHead, Malformation> {
        let head = RecordHead {
            at_root: self.skip_name()?,
            record_type: self.u16()?,
            class: self.u16()?,
            ttl: self.u32()?,
        };
        let len = self.u16()?;
        self.take(usize::from(len))?;
        Ok(head)
    }
}

#[cfg(test)]
mod tests;
