//! The overlay namespace and everything in it: planned, applied, undone.
