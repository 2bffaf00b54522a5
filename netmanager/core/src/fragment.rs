//! Fragments follow the first one.
