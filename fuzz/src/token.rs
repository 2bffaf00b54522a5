//! Target on the reading of relay tokens, before and after their signature would be verified.

use weald_proto::token::{CheckedClaims, MAX_TOKEN_LEN, RelayToken, TokenFault};

/// A token as a peer presents it: no bytes panic, and what is read is read again from what it is
/// written as. The claims are read as if the signature were right, and the input also as claims.
///
/// # Panics
/// If it is not.
pub fn token(bytes: &[u8]) {
    let read = RelayToken::read(bytes);
    let is_long = bytes.len() > MAX_TOKEN_LEN;
    assert_eq!(is_long, read == Err(TokenFault::TooLong(bytes.len())));
    let claims = read.iter().map(|token| token.claims.as_slice());
    for claims in claims.chain([bytes]) {
        if let Ok(statement) = CheckedClaims::read(claims) {
            assert_eq!(CheckedClaims::read(&statement.write()), Ok(statement));
        }
    }
}
