//! Compiled L4 authorization: decide(). Pure: no I/O, no clock.
