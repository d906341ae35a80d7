//! The runner: one node. Leases jobs, lends each a private warm engine, reports what it did.

pub mod artifacts;
pub mod cache;
pub mod confined;
pub mod engine;
pub mod identity;
pub mod layers;
pub mod pressure;
pub mod trace;
pub mod workspace;
