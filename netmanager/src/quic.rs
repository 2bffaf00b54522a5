//! The QUIC endpoint of the packet thread.
