//! Relay tokens.
