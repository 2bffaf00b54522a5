//! What is kept on disk over a restart.
