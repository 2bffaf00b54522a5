//! Files that appear whole or not at all, and secrets that are never open to others.
