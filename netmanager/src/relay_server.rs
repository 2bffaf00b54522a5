//! The relay process.
