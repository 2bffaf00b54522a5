//! What a relay and this node have said to each other: registration, and whom it can reach there.
