//! The Lab: nodes, NAT routers and links in network namespaces.
