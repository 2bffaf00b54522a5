//! Packets good and bad, and rewriting against summing everything again.
