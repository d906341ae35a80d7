//! A strict GitLab double: the server's side of the runner protocol, for tests.
//!
//! | module | noun |
//! |---|---|
//! | [`server`] | [`server::Double`]: the listening server, and what a test may ask and do |
//! | [`protocol`] | what each call is answered, and what is a breach |
//! | [`state`] | runners, jobs, what was seen |
//! | [`faults`] | seeded failures |
//! | [`multipart`] | the body of an upload, strictly |
//! | [`payload`] | jobs as GitLab hands them out |
//!
//! A breach (wrong offset, missing header, unexpected type, upload after the end, …) is recorded; a test ends with
//! [`server::Double::assert_clean`].

pub mod faults;
pub mod multipart;
pub mod payload;
pub mod protocol;
pub mod server;
pub mod state;

pub use server::Double;
pub use state::{Job, Reply, Seen, Settings, Status};
