//! The header of a chunk: one piece of an inner (super-)packet in a QUIC DATAGRAM.
