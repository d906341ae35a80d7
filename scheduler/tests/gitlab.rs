//! The GitLab upstream against the strict double, with a scheduler that plays its jobs instead of running them.
//!
//! The numbers in the tests' names are those of the contract's list of ways in which a naive client goes wrong; the
//! points that need containers are in the root's `tests/gitlab.rs`.

#[path = "gitlab/asking.rs"]
mod asking;
#[path = "gitlab/files.rs"]
mod files;
#[path = "gitlab/identity.rs"]
mod identity;
#[path = "gitlab/payloads.rs"]
mod payloads;
#[path = "gitlab/site.rs"]
mod site;
#[path = "gitlab/storm.rs"]
mod storm;
#[path = "gitlab/telling.rs"]
mod telling;
