//! Authenticates probes and relay frames.
