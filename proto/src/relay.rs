//! What a node and a relay say on their QUIC stream: token, registration, whom to reach.
