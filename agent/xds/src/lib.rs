//! Delta xDS sessions (pure state machines), their tonic shells, and conversion between model and protobuf.
