//! Cuts inner (super-)packets into datagrams and puts them together again.
