//! Target on the first bytes of a stream of the L4 lane.

use netmanager_core::lane::{Hello, HelloError, MAX_HELLO_LEN};

/// An opening that is read is written as the bytes that it was read from, and no shorter piece of them
/// is one; what follows it does not matter.
///
/// # Panics
/// If it is not so.
pub fn lane_hello(bytes: &[u8]) {
    let read = Hello::decode(bytes);
    let Ok((hello, len)) = read else {
        let whole = bytes.len() >= MAX_HELLO_LEN;
        assert!(!whole || read != Err(HelloError::Incomplete), "{bytes:?}");
        return;
    };
    let opening = &bytes[..len];
    assert_eq!(hello.encode(), opening);
    assert_eq!(Hello::decode(opening), Ok((hello, len)));
    for short in 0..len {
        let piece = Hello::decode(&opening[..short]);
        assert_eq!(piece, Err(HelloError::Incomplete), "{short} bytes");
    }
}
