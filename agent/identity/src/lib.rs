//! SPIFFE certificates: cache and renewal, CA client, CA signer, rustls configurations, verifier.
