//! The control plane: sources, translation, snapshot, xDS server, certificate service.
