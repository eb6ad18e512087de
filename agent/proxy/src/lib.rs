//! The node's L4 proxy: outbound, inbound, passthrough, live connections.
