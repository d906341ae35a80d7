//! Engines: a private Docker daemon for every job that asks for one, behind a wall. See `docs/design/engine.md`.
//!
//! | module | noun |
//! |---|---|
//! | [`lend`] | the lender: clone, start, adopt, sweep |
//! | [`lent`] | a lent engine, and giving it back |
//! | [`wall`] | which wall this host holds, found by trying |
//! | [`door`] | what answers on port 2375, a process of its own |
//! | [`health`] | whether an engine answers |
//! | `launch`, `stop`, `tidy` | starting behind the `userns` wall, ending, removing what is the job's own before |
//! | `container` | the `container` wall |
//! | `bundle`, `shape`, `files`, `tls` | what `runc` and the daemon are told (pure, but for writing it) |
//! | `spaces`, `mounts`, `idmap`, `ids`, `cgroup`, `network` | what the wall is made of |
//! | `image`, `unpack`, `record` | the service's image; what is on disk about an engine |

mod bundle;
mod cgroup;
mod container;
pub mod door;
mod error;
mod files;
pub mod health;
mod idmap;
mod ids;
mod image;
mod launch;
pub mod lend;
pub mod lent;
mod mounts;
mod network;
mod record;
mod shape;
mod spaces;
mod stop;
mod tidy;
mod tls;
mod unpack;
pub mod wall;

pub use cgroup::Limits;
pub use error::EngineError;
pub use lend::{EngineConfig, EngineRequest, Lender, NetworkFacts, engine_id};
pub use lent::{Ending, Lent, Returned, Usage};
pub use shape::Registries;
pub use wall::{Choice, Found};
