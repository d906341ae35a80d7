//! The layer store: every job gets a private engine that is already warm. See `docs/design/layers.md`.
//!
//! | module | noun |
//! |---|---|
//! | [`lineage`] | the key under which generations follow one another |
//! | [`manifest`] | what a generation says about itself on disk |
//! | [`store`] | the folder: open, sweep, list, the one lock |
//! | [`clone`] | an engine's data directory, made from a generation |
//! | [`promote`] | a generation, made from a finished engine |
//! | [`succession`] | which of two racing jobs becomes the parent (pure) |
//! | [`layout`] | where an engine keeps its layers, and what else is worth keeping |
//! | [`collect`] | drop, roll back, condemn, sweep, evict |
//! | [`budget`] | disk admission and the order of eviction |
//! | [`verify`] | proof that stored bytes are what they were |
//! | [`untrusted_tree`] | the only code that walks a directory an engine has written |
//! | [`fault`] | where a test may interrupt a change |
//!
//! All of it blocks: call it from `spawn_blocking`. Many processes may have the same store open; what they must
//! agree on is on disk.

pub mod budget;
pub mod clone;
pub mod collect;
pub mod fault;
pub mod layout;
pub mod lineage;
pub mod manifest;
pub mod promote;
pub mod store;
pub mod succession;
pub mod untrusted_tree;
pub mod verify;

pub use budget::{Budget, Refused, Reservation};
pub use clone::Clone;
pub use fault::{Faults, Step};
pub use layout::{SnapshotInfo, SnapshotKind};
pub use lineage::{EngineKind, GenerationRef, ImageStore, Lineage, LineageKey, Wall};
pub use promote::{Finished, Kept, Promotion};
pub use store::{Finishing, LayersError, Store};

/// The store's folder beneath a node's `cache_root`.
pub const FOLDER: &str = "layers";

/// Where an engine sees [`Clone::layers`], mounted read-only, inside its own root filesystem.
pub const MOUNT: &str = "/var/lib/slipway/layers";
