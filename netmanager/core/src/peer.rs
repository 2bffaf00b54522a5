//! Sessions and paths of one peer.
