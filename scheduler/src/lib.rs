//! The scheduler: plans pipelines, decides, remembers, and talks to nodes and GitLab.
//!
//! | module | noun |
//! |---|---|
//! | [`access`] | who may talk to us over TCP: authority, tokens, certificates |
//! | [`artifacts`] | artifacts on the scheduler's disk |
//! | [`compose`], [`predefined`] | a planned job becomes what a runner gets |
//! | [`config`] | `[scheduler]` and `[[project]]` |
//! | [`decide`] | one job's life, a pipeline's progress, the queue, placement; pure |
//! | [`deployments`] | the chained record |
//! | [`driver`] | the one task: command, decide, commit a batch, release effects |
//! | `errands` | child pipelines, redeployments, the outbox; `housekeeping`: retention |
//! | [`intake`] | how pipelines come to be |
//! | [`metrics`] | what Prometheus reads |
//! | [`pipeline`] | `.gitlab-ci.yml` text becomes a plan; pure, a fetcher comes in as a trait |
//! | [`record`] | what is kept of pipelines and jobs |
//! | [`server`] | the scheduler as one thing: start, serve, shut down |
//! | [`service`] | gRPC on one side, the driver on the other |
//! | [`store`] | SQLite: state tables and history |
//! | [`traces`] | one append-only file a job |
//! | [`triggers`] | pushes and schedules that make pipelines by themselves |
//! | [`upstream`] | the door to a GitLab server that we are a runner of |

pub mod access;
pub mod artifacts;
pub mod compose;
pub mod config;
pub mod decide;
pub mod deployments;
pub mod driver;
mod errands;
mod housekeeping;
pub mod intake;
pub mod metrics;
pub mod pipeline;
pub mod predefined;
pub mod record;
pub mod server;
pub mod service;
pub mod store;
mod text;
pub mod traces;
pub mod triggers;
pub mod upstream;

pub use server::Scheduler;
