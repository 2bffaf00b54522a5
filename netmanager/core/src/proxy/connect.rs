//! HTTP CONNECT (RFC 9110, section 9.3.6) over HTTP/1.1, and nothing else of HTTP.
//!
//! The head of a request is read from the beginning of what has come, without keeping anything
//! between two calls; what follows it is the tunnel's.

use super::{Refused, Target, TargetError};

/// The longest head of a request, as servers have it.
pub const MAX_HEAD_LEN: usize = 8 << 10;
/// What says that the tunnel begins.
pub const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// The longest excerpt of a request that is shown back.
const SHOWN: usize = 32;

/// What is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The head does not end.
    #[error("the head of the request has more than {MAX_HEAD_LEN} bytes")]
    TooLong,
    /// It is no HTTP/1 request.
    #[error("this is no request of HTTP/1.1: {0}")]
    Malformed(&'static str),
    /// It wants something else than a tunnel.
    #[error("method {0}; this proxy opens tunnels only, by CONNECT (with curl: --proxytunnel)")]
    Method(String),
    /// What it names is no target.
    #[error("CONNECT {0}: {1}")]
    Target(String, TargetError),
}

impl ConnectError {
    /// The answer before the connection is closed.
    #[must_use]
    pub fn answer(&self) -> Vec<u8> {
        let status = match self {
            Self::TooLong => "431 Request Header Fields Too Large",
            Self::Malformed(_) | Self::Target(..) => "400 Bad Request",
            Self::Method(_) => "405 Method Not Allowed\r\nAllow: CONNECT",
        };
        answer(status, &self.to_string())
    }
}

/// The answer to a request whose target is not connected.
#[must_use]
pub fn refusal(why: &Refused) -> Vec<u8> {
    let status = match why {
        Refused::Outside(_) => "403 Forbidden",
        Refused::Name(_) | Refused::Unasked(_) | Refused::Family(_) | Refused::Connection(_) => {
            "502 Bad Gateway"
        }
        Refused::NoAnswer(_) => "504 Gateway Timeout",
        Refused::NoRoom => "503 Service Unavailable",
    };
    answer(status, &why.to_string())
}

/// `status` is the rest of the first line, with further fields if there are any.
fn answer(status: &str, text: &str) -> Vec<u8> {
    let length = text.len() + 1;
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{text}\n"
    )
    .into_bytes()
}

/// Reads the head of a CONNECT request; its target and its length, or none if it is not all here.
///
/// # Errors
/// What is wrong with it, as soon as that can be seen.
pub fn head(bytes: &[u8]) -> Result<Option<(Target, usize)>, ConnectError> {
    let bounded = bytes.get(..MAX_HEAD_LEN).unwrap_or(bytes);
    let Some(end) = bounded.windows(4).position(|four| four == b"\r\n\r\n") else {
        if bounded.len() == MAX_HEAD_LEN {
            return Err(ConnectError::TooLong);
        }
        // Whoever speaks another protocol need not be waited for.
        return match bounded.iter().find(|byte| !is_text(**byte)) {
            Some(_) => Err(ConnectError::Malformed("control characters in the head")),
            None => Ok(None),
        };
    };
    let head = bounded.get(..end).unwrap_or_default();
    let head = std::str::from_utf8(head)
        .map_err(|_| ConnectError::Malformed("characters beyond UTF-8 in the head"))?;
    let mut lines = head.split("\r\n");
    let target = request_line(lines.next().unwrap_or_default())?;
    for line in lines {
        let name = line.split_once(':').map(|(name, _)| name);
        let is_field = name.is_some_and(|name| !name.is_empty() && name.bytes().all(is_token));
        if !is_field {
            return Err(ConnectError::Malformed("a header line without a name"));
        }
    }
    if !head.bytes().all(is_text) {
        return Err(ConnectError::Malformed("control characters in the head"));
    }
    Ok(Some((target, end + 4)))
}

fn request_line(line: &str) -> Result<Target, ConnectError> {
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(ConnectError::Malformed(
            "its first line is not METHOD TARGET VERSION",
        ));
    };
    if method.is_empty() || !method.bytes().all(is_token) {
        return Err(ConnectError::Malformed("its method is no word"));
    }
    if !matches!(version, "HTTP/1.1" | "HTTP/1.0") {
        return Err(ConnectError::Malformed("its version is not HTTP/1.1"));
    }
    if method != "CONNECT" {
        return Err(ConnectError::Method(shown(method)));
    }
    Target::parse(target).map_err(|error| ConnectError::Target(shown(target), error))
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// What may stand in a head at all: text, tabs and ends of lines.
const fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b'\r' | b'\n' | 0x20..=0x7e | 0x80..)
}

/// Characters of methods and of names of fields (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_head_or_refused_or_part_of_one(
            line in prop_oneof![
                Just("CONNECT a:80 HTTP/1.1\r\n".to_owned()),
                "[A-Z ]{0,9}[a-z:0-9\\[\\]]{0,9}( HTTP/1\\.[01])?(\r\n)?",
            ],
            rest in prop::collection::vec(any::<u8>(), 0..64),
            ends in any::<bool>(),
        ) {
            let end: &[u8] = if ends { b"\r\n\r\n" } else { b"" };
            let bytes = [line.as_bytes(), &rest, end].concat();
            match head(&bytes) {
                Ok(Some((target, len))) => {
                    prop_assert!(bytes[..len].ends_with(b"\r\n\r\n"));
                    prop_assert_eq!(Target::parse(&target.to_string()), Ok(target));
                }
                Ok(None) => prop_assert!(!ends),
                Err(error) => prop_assert!(error.answer().starts_with(b"HTTP/1.1 4")),
            }
        }
    }

    fn read(text: &str) -> Result<Option<(Target, usize)>, ConnectError> {
        head(text.as_bytes())
    }

    #[test]
    fn a_head_is_read_when_it_is_all_there() {
        let text = "CONNECT web.prod.rr.local:80 HTTP/1.1\r\nHost: web.prod.rr.local:80\r\n\
                    User-Agent: curl/8\r\nProxy-Connection: Keep-Alive\r\n\r\n";
        let target = Target::parse("web.prod.rr.local:80").unwrap();
        assert_eq!(read(text), Ok(Some((target.clone(), text.len()))));
        let more = format!("{text}\x16\x03\x01");
        assert_eq!(read(&more), Ok(Some((target, text.len()))), "TLS follows");
        for end in 0..text.len() {
            assert_eq!(read(&text[..end]), Ok(None), "{end} bytes");
        }
        let bare = "CONNECT [fdff::1]:443 HTTP/1.0\r\n\r\n";
        let target = Target::parse("[fdff::1]:443").unwrap();
        assert_eq!(read(bare), Ok(Some((target, bare.len()))));
    }

    #[test]
    fn what_is_no_connect_is_refused_with_a_status_that_fits() {
        for (text, status) in [
            ("GET http://web.prod.rr.local/ HTTP/1.1\r\n\r\n", "405"),
            ("CONNECT web.prod.rr.local HTTP/1.1\r\n\r\n", "400"),
            ("CONNECT web.prod.rr.local:0 HTTP/1.1\r\n\r\n", "400"),
            ("CONNECT web.prod.rr.local:99999 HTTP/1.1\r\n\r\n", "400"),
            ("CONNECT :80 HTTP/1.1\r\n\r\n", "400"),
            ("CONNECT a@b:80 HTTP/1.1\r\n\r\n", "400"),
            ("CONNECT fdff::1:80 HTTP/1.1\r\n\r\n", "400"),
            ("CONNECT a:80 HTTP/2\r\n\r\n", "400"),
            ("CONNECT a:80\r\n\r\n", "400"),
            ("CONNECT  a:80 HTTP/1.1\r\n\r\n", "400"),
            ("CONNECT a:80 HTTP/1.1\r\nno field\r\n\r\n", "400"),
            ("CONNECT a:80 HTTP/1.1\r\n folded: x\r\n\r\n", "400"),
            ("CONNECT a:80 HTTP/1.1\r\nX: \0\r\n\r\n", "400"),
            ("\x16\x03\x01\x02\0\x01", "400"),
            ("\r\n\r\n", "400"),
        ] {
            let answer = read(text).unwrap_err().answer();
            let answer = String::from_utf8(answer).unwrap();
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{text:?}: {answer}"
            );
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            let length = format!("Content-Length: {}", body.len());
            assert!(head.contains(&length), "{answer}");
        }
        let bytes = b"CONNECT a:80 HTTP/1.1\r\nX: \xff\r\n\r\n";
        assert!(matches!(head(bytes), Err(ConnectError::Malformed(_))));
    }

    #[test]
    fn a_head_without_an_end_is_not_waited_for() {
        let mut bytes = b"CONNECT a:80 HTTP/1.1\r\nX: ".to_vec();
        bytes.resize(MAX_HEAD_LEN - 1, b'x');
        assert_eq!(head(&bytes), Ok(None));
        bytes.extend(b"xx\r\n\r\n");
        assert_eq!(head(&bytes), Err(ConnectError::TooLong));
    }

    #[test]
    fn refusals_say_why() {
        let why = Refused::Connection("10.30.1.2:9".parse().unwrap());
        let text = String::from_utf8(refusal(&why)).unwrap();
        assert!(text.starts_with("HTTP/1.1 502 "), "{text}");
        assert!(text.contains("10.30.1.2:9 refuses"), "{text}");
    }
}
