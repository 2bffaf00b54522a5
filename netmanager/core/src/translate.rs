//! Service IP to instance IP and back.
