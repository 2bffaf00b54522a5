//! Configuration files and the static table.
