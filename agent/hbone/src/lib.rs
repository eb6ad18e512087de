//! The HBONE tunnel: pool, client, server, stream, headers. HTTP/2 lives only here.
