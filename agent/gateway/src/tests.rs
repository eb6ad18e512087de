//! The gateway between real HTTP clients and servers, on loopback.

mod backend;
mod bed;
mod change;
mod hard;
mod refuse;
mod retry;
mod serve;
mod tls;
mod waypoint;
