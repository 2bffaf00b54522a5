//! The packet thread: feeds the core and drains it.
