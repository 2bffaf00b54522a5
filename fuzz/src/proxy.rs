//! Targets on what clients of the proxies send, and on what operators write.

use netmanager_core::proxy::{Forward, Publish, Target, connect, socks5};

/// The messages of a SOCKS5 client: no bytes panic, a message that was read stays the same when
/// more follows it, and nothing that is part of one is refused.
///
/// # Panics
/// If it is not so.
pub fn socks5(bytes: &[u8]) {
    let read = |bytes: &[u8]| match socks5::greeting(bytes) {
        Ok(len) => Ok(len),
        Err(error) => Err(error.answer()),
    };
    is_read_alike(bytes, socks5::MAX_GREETING_LEN, read);
    let read = |bytes: &[u8]| match socks5::request(bytes) {
        Ok(read) => Ok(read.map(|(target, len)| check(&target, len))),
        Err(error) => Err(error.answer()),
    };
    is_read_alike(bytes, socks5::MAX_REQUEST_LEN, read);
}

/// The head of a CONNECT request, likewise; and the same bytes as forwards and publications.
///
/// # Panics
/// If it is not so.
pub fn connect(bytes: &[u8]) {
    let read = |bytes: &[u8]| match connect::head(bytes) {
        Ok(read) => Ok(read.map(|(target, len)| check(&target, len))),
        Err(error) => {
            let answer = error.answer();
            assert!(answer.starts_with(b"HTTP/1.1 4"), "{error}");
            Err(answer)
        }
    };
    is_read_alike(bytes, connect::MAX_HEAD_LEN, read);
    let text = String::from_utf8_lossy(bytes);
    if let Ok(forward) = text.parse::<Forward>() {
        check(&forward.target, 0);
    }
    if let Ok(publish) = text.parse::<Publish>() {
        assert!(publish.port != 0 && publish.server.port() != 0);
    }
}

/// A target that was read is read again from what it is written as.
fn check(target: &Target, len: usize) -> usize {
    let written = target.to_string();
    assert_eq!(Target::parse(&written).as_ref(), Ok(target), "{written}");
    len
}

fn is_read_alike(
    bytes: &[u8],
    longest: usize,
    read: impl Fn(&[u8]) -> Result<Option<usize>, Vec<u8>>,
) {
    let whole = read(bytes);
    match whole {
        Ok(Some(len)) => {
            assert!((1..=longest.min(bytes.len())).contains(&len));
            assert_eq!(read(&bytes[..len]), Ok(Some(len)));
            assert_eq!(read(&bytes[..len - 1]), Ok(None));
        }
        Ok(None) => assert!(
            bytes.len() < longest,
            "{} bytes are waited for",
            bytes.len()
        ),
        Err(_) => {}
    }
}
