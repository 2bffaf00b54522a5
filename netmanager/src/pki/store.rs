//! The authorities in a directory, for `netmanager pki`.
