//! What the two ends of a bench say to each other besides load.
//!
//! A connection begins with the token and a byte that says what it is for; a datagram with the same
//! two. Whoever does not show the token gets no answer. On a connection for reports every byte asks
//! for the counts, which are five numbers of eight bytes, most significant first.

use std::fmt;

/// Bytes of a token.
pub const TOKEN_BYTES: usize = 16;
/// Bytes that a connection and a datagram begin with.
pub const HEAD_BYTES: usize = TOKEN_BYTES + 1;
/// Bytes of a report.
pub const COUNTS_BYTES: usize = 5 * 8;

/// What the load of one bench shows; drawn anew for each.
#[derive(Clone, Copy, Eq)]
pub struct Token([u8; TOKEN_BYTES]);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Its bytes are counted and forgotten.
    Sink,
    /// Bytes come until it is closed.
    Source,
    /// One byte comes, and the end: an open connection counts.
    Touch,
    /// Counts come, whenever a byte asks for them. The bench is over when it is closed.
    Report,
}

/// What is done with a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datagram {
    /// It comes back as it is.
    Echo,
    /// Its bytes are counted and forgotten.
    Count,
}

/// What a responder has taken and used so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Since the bench began, in nanoseconds.
    pub nanoseconds: u64,
    /// Bytes of sinks.
    pub sink_bytes: u64,
    /// Bytes of counted datagrams.
    pub datagram_bytes: u64,
    /// CPU time of the daemon without the responder, in nanoseconds.
    pub daemon_cpu: u64,
    /// CPU time of the responder, in nanoseconds.
    pub load_cpu: u64,
}

impl Token {
    /// A token that nobody can guess.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn draw() -> anyhow::Result<Self> {
        let mut bytes = [0; TOKEN_BYTES];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| anyhow::anyhow!("no randomness"))?;
        Ok(Self(bytes))
    }

    /// The token in what the other end said; none if it has another length.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; TOKEN_BYTES] {
        &self.0
    }

    /// The token and a byte behind it.
    fn head(&self, byte: u8) -> [u8; HEAD_BYTES] {
        let mut head = [byte; HEAD_BYTES];
        for (to, from) in head.iter_mut().zip(&self.0) {
            *to = *from;
        }
        head
    }

    /// The byte behind the token at the head of `bytes`; none without the right token.
    fn behind(&self, bytes: &[u8]) -> Option<u8> {
        let (token, rest) = bytes.split_at_checked(TOKEN_BYTES)?;
        let shown = Self::of(token)?;
        (shown == *self).then(|| rest.first().copied())?
    }
}

impl PartialEq for Token {
    /// In a time that does not tell how much of it is right.
    fn eq(&self, other: &Self) -> bool {
        let differing = self.0.iter().zip(&other.0);
        differing.fold(0, |sum, (own, other)| sum | (own ^ other)) == 0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Purpose {
    const ALL: [Self; 4] = [Self::Sink, Self::Source, Self::Touch, Self::Report];

    /// What a connection with this purpose begins with.
    #[must_use]
    pub fn head(self, token: &Token) -> [u8; HEAD_BYTES] {
        token.head(self as u8)
    }

    /// The purpose of a connection that began with `head`; none without the right token.
    #[must_use]
    pub fn read(head: &[u8], token: &Token) -> Option<Self> {
        let byte = token.behind(head)?;
        Self::ALL.into_iter().find(|one| *one as u8 == byte)
    }
}

impl Datagram {
    const ALL: [Self; 2] = [Self::Echo, Self::Count];

    /// What such a datagram begins with.
    #[must_use]
    pub fn head(self, token: &Token) -> [u8; HEAD_BYTES] {
        token.head(self as u8)
    }

    /// What to do with a datagram; none without the right token.
    #[must_use]
    pub fn read(datagram: &[u8], token: &Token) -> Option<Self> {
        let byte = token.behind(datagram)?;
        Self::ALL.into_iter().find(|one| *one as u8 == byte)
    }
}

impl Counts {
    /// As it travels.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let numbers = [
            self.nanoseconds,
            self.sink_bytes,
            self.datagram_bytes,
            self.daemon_cpu,
            self.load_cpu,
        ];
        numbers.into_iter().flat_map(u64::to_be_bytes).collect()
    }

    /// As it has come.
    #[must_use]
    pub fn decode(bytes: &[u8; COUNTS_BYTES]) -> Self {
        let number = |index: usize| {
            let bytes = bytes.iter().skip(index * 8).take(8);
            bytes.fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
        };
        Self {
            nanoseconds: number(0),
            sink_bytes: number(1),
            datagram_bytes: number(2),
            daemon_cpu: number(3),
            load_cpu: number(4),
        }
    }
}
