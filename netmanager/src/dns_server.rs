//! DNS sockets inside the overlay namespace.
