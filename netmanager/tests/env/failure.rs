//! Steps that fail are taken back.
