//! A checked view of one inner IP packet, and its rewriting in place.
