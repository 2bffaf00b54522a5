//! The fast lane's frames: datagrams of inner packets, sealed without QUIC.
//!
//! QUIC costs as much per packet as its encryption does: acknowledgements, loss detection and
//! bookkeeping that inner TCP does over again end to end. Here is what is left without them: a
//! header, AES-128-GCM, a counter as nonce (RFC 5116, section 3.2, with the salt of RFC 8446,
//! section 5.3) and a window against replays. The layout is `weald_proto::fast`'s. Keys come from
//! the TLS exporter of a handshake of their own and are replaced by those of another one, so that
//! what was sent stays closed to whoever takes a node later; which of them is used when is
//! [`lane`]'s, what is sent this way is the shell's.
//!
//! ```text
//! keys.sealer.seal(&parts, &mut out)?;             // appends one frame
//! let inner = lane.open(key, &mut frame, now)?;    // in place
//! ```

use std::fmt;
use std::time::{Duration, Instant};

use weald_proto::fast::{FastHeader, HEADER_LEN, MAX_KEY_ID, OVERHEAD};

use crate::seal::{OpenError, ReplayWindow};

pub mod lane;
#[cfg(test)]
mod tests;

/// Bytes of a key, as the TLS exporter is asked for them.
pub const KEY_LEN: usize = 16;
/// Bytes of a nonce.
const NONCE_LEN: usize = 12;

/// Frames after which a key should be replaced.
pub const STALE_FRAMES: u64 = 1 << 22;
/// Frames after which a key is used no more: RFC 9001, section 6.6, allows AES-128-GCM 2^23 packets.
pub const MAX_FRAMES: u64 = 1 << 23;
/// Age at which a key should be replaced.
pub const STALE_AGE: Duration = Duration::from_secs(120);
/// Age from which nothing more is sealed with a key.
pub const MAX_AGE: Duration = Duration::from_secs(180);
/// Age from which nothing more is opened with a key: the ends' clocks start a handshake's last
/// flight apart, and frames are on their way for a while.
pub const MAX_OPENER_AGE: Duration = Duration::from_secs(190);

/// How many counters below the highest one are remembered: batches of 45 overtake one another, at
/// a million frames per second, for 8 ms.
const WINDOW_WORDS: usize = 8192 / 64;

/// Whose AES-128-GCM is used; which is faster depends on the CPU. Frames are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// aws-lc's.
    AwsLc,
    /// ring's.
    Ring,
}

/// What one direction's frames are sealed with: bytes from the TLS exporter, which both ends have.
#[derive(Clone, Copy)]
pub struct FastSecret {
    /// The key.
    pub key: [u8; KEY_LEN],
    /// The salt of nonces; the first twelve bytes count.
    pub salt: [u8; KEY_LEN],
    /// The id that the receiver finds the key by; 56 bits count.
    pub id: u64,
}

impl fmt::Debug for FastSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FastSecret(..)")
    }
}

enum Cipher {
    AwsLc(aws_lc_rs::aead::LessSafeKey),
    Ring(Box<ring::aead::LessSafeKey>),
}

impl Cipher {
    fn new(library: Library, key: &[u8; KEY_LEN]) -> Self {
        // The only error is a wrong length, and the array has the right one.
        match library {
            Library::AwsLc => {
                match aws_lc_rs::aead::UnboundKey::new(&aws_lc_rs::aead::AES_128_GCM, key) {
                    Ok(key) => Self::AwsLc(aws_lc_rs::aead::LessSafeKey::new(key)),
                    Err(_) => unreachable!("AES-128 keys have {KEY_LEN} bytes"),
                }
            }
            Library::Ring => match ring::aead::UnboundKey::new(&ring::aead::AES_128_GCM, key) {
                Ok(key) => Self::Ring(Box::new(ring::aead::LessSafeKey::new(key))),
                Err(_) => unreachable!("AES-128 keys have {KEY_LEN} bytes"),
            },
        }
    }

    /// Encrypts the frame that begins at `at` in place, behind its header, and appends the tag; false
    /// if it is longer than GCM allows.
    fn seal(&self, nonce: [u8; NONCE_LEN], frame: &mut Vec<u8>, at: usize) -> bool {
        let Some((header, body)) = frame
            .get_mut(at..)
            .and_then(|frame| frame.split_at_mut_checked(HEADER_LEN))
        else {
            return false;
        };
        match self {
            Self::AwsLc(key) => {
                use aws_lc_rs::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, Aad::from(&*header), body);
                tag.is_ok_and(|tag| {
                    frame.extend_from_slice(tag.as_ref());
                    true
                })
            }
            Self::Ring(key) => {
                use ring::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, Aad::from(&*header), body);
                tag.is_ok_and(|tag| {
                    frame.extend_from_slice(tag.as_ref());
                    true
                })
            }
        }
    }

    /// Decrypts what stands behind the header, in place.
    fn open<'a>(&self, nonce: [u8; NONCE_LEN], frame: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let (header, sealed) = frame.split_at_mut_checked(HEADER_LEN)?;
        match self {
            Self::AwsLc(key) => {
                use aws_lc_rs::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.open_in_place(nonce, Aad::from(&*header), sealed).ok()
            }
            Self::Ring(key) => {
                use ring::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.open_in_place(nonce, Aad::from(&*header), sealed).ok()
            }
        }
    }
}

/// A key of one direction, its salt, and since when it is used.
struct Key {
    cipher: Cipher,
    salt: [u8; NONCE_LEN],
    id: u64,
    since: Instant,
}

impl Key {
    fn new(secret: &FastSecret, library: Library, now: Instant) -> Self {
        let mut salt = [0; NONCE_LEN];
        salt.copy_from_slice(&secret.salt[..NONCE_LEN]);
        Self {
            cipher: Cipher::new(library, &secret.key),
            salt,
            id: secret.id & MAX_KEY_ID,
            since: now,
        }
    }

    fn nonce(&self, counter: u64) -> [u8; NONCE_LEN] {
        let mut nonce = self.salt;
        for (byte, of_counter) in nonce[NONCE_LEN - 8..].iter_mut().zip(counter.to_be_bytes()) {
            *byte ^= of_counter;
        }
        nonce
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// The key is used up: the frame must go another way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key of the fast lane has sealed {MAX_FRAMES} frames, and must seal no more")]
pub struct Exhausted;

/// The sealing end of one direction.
///
/// GCM falls with the first nonce that is used twice under one key; hence it owns its counter and
/// is no `Clone`.
#[derive(Debug)]
pub struct FastSealer {
    key: Key,
    next: u64,
}

impl FastSealer {
    /// Starts a direction; its first counter is 1, as 0 is where replay windows start.
    #[must_use]
    pub fn new(secret: &FastSecret, library: Library, now: Instant) -> Self {
        Self {
            key: Key::new(secret, library, now),
            next: 1,
        }
    }

    /// Appends a frame that carries `parts`, one behind the other, to `out`.
    ///
    /// # Errors
    /// The key is used up; nothing was appended.
    pub fn seal(&mut self, parts: &[&[u8]], out: &mut Vec<u8>) -> Result<(), Exhausted> {
        if self.next > MAX_FRAMES {
            return Err(Exhausted);
        }
        let counter = self.next;
        self.next += 1;
        let at = out.len();
        let header = FastHeader {
            key: self.key.id,
            counter,
        };
        out.extend_from_slice(&header.encode());
        for part in parts {
            out.extend_from_slice(part);
        }
        if self.key.cipher.seal(self.key.nonce(counter), out, at) {
            return Ok(());
        }
        // More than 64 GiB at once; no caller has them.
        out.truncate(at);
        Err(Exhausted)
    }

    /// Whether the key should be replaced.
    #[must_use]
    pub fn is_stale(&self, now: Instant) -> bool {
        self.next > STALE_FRAMES || now >= self.key.since + STALE_AGE
    }

    /// Whether the key must not be used any more.
    #[must_use]
    pub fn is_spent(&self, now: Instant) -> bool {
        self.next > MAX_FRAMES || now >= self.key.since + MAX_AGE
    }

    /// How many frames it has sealed.
    #[must_use]
    pub const fn frames(&self) -> u64 {
        self.next - 1
    }
}

/// The opening end of one direction.
#[derive(Debug)]
pub struct FastOpener {
    key: Key,
    window: ReplayWindow<WINDOW_WORDS>,
}

impl FastOpener {
    /// Starts a direction.
    #[must_use]
    pub fn new(secret: &FastSecret, library: Library, now: Instant) -> Self {
        Self {
            key: Key::new(secret, library, now),
            window: ReplayWindow::default(),
        }
    }

    /// The id that frames name the key by.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.key.id
    }

    /// Opens a frame in place, and remembers its counter. Returns what it carried.
    ///
    /// # Errors
    /// Says what is wrong with the frame; the window is as before, the frame's bytes may not be.
    pub fn open<'a>(&mut self, frame: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
        let header = FastHeader::decode(frame).ok_or(OpenError::Short)?;
        if header.key != self.key.id {
            return Err(OpenError::Tag);
        }
        if !self.window.is_fresh(header.counter) {
            return Err(OpenError::Replayed);
        }
        let nonce = self.key.nonce(header.counter);
        let inner = self.key.cipher.open(nonce, frame).ok_or(OpenError::Tag)?;
        self.window.insert(header.counter);
        Ok(inner)
    }
}

/// Bytes of what a frame may carry, for UDP payloads of at most `mtu` bytes.
#[must_use]
pub const fn room(mtu: usize) -> usize {
    mtu.saturating_sub(OVERHEAD)
}
