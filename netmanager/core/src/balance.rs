//! Picks the instance of a new flow.
