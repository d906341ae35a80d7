//! The runner: one node. Leases jobs, lends each a private warm engine, reports what it did.

pub mod agent;
pub mod artifacts;
pub mod cache;
pub mod config;
pub mod confined;
pub mod engine;
mod executor;
pub mod identity;
pub mod job;
pub mod layers;
pub mod pressure;
mod receipt;
mod sweep;
pub mod trace;
pub mod workspace;
