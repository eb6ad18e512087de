//! Wire messages: delta xDS, workload, authorization, certificate service. Generated code is checked in.
