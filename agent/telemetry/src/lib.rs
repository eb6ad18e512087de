//! Tracing set-up, one Record per connection (access-log line and metrics on drop), metrics registry.
