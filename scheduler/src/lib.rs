//! The scheduler: plans pipelines, decides, remembers, and talks to nodes and GitLab.
//!
//! | module | noun |
//! |---|---|
//! | [`access`] | who may talk to us over TCP: authority, tokens, certificates |
//! | [`pipeline`] | `.gitlab-ci.yml` text becomes a plan; pure, a fetcher comes in as a trait |
//! | [`triggers`] | pushes and schedules that make pipelines by themselves |
//! | [`upstream`] | the door to a GitLab server that we are a runner of |

pub mod access;
pub mod pipeline;
pub mod triggers;
pub mod upstream;
