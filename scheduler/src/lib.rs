//! The scheduler: plans pipelines, decides, remembers, and talks to nodes and GitLab.
//!
//! | module | noun |
//! |---|---|
//! | [`pipeline`] | `.gitlab-ci.yml` text becomes a plan; pure, a fetcher comes in as a trait |

pub mod pipeline;
