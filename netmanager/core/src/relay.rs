//! Forwards sealed packets between registered nodes.
