//! Makes the root, cluster and node certificates.
