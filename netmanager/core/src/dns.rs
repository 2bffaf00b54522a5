//! Answers queries for semantic names.
