//! Credentials and the one verifier of both directions.
