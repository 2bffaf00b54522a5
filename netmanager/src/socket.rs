//! The data socket, shared by QUIC, probes and relay frames.
