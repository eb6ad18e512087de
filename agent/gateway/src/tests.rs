//! The gateway between real HTTP clients and servers, on loopback.

mod authority;
mod backend;
mod bed;
mod change;
mod endpoints;
mod hard;
mod refuse;
mod retry;
mod secure;
mod serve;
mod tls;
mod traffic;
mod waypoint;
