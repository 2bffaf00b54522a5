//! The whole packet path: what a packet from the TUN or from a peer leads to.
