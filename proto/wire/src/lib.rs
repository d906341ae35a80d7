//! The gRPC contract. `slipway/v1/*.proto` says what each rpc promises; [`v1`] is the code made of it (checked in,
//! guarded by a test); [`document`] carries slipway-spec's types through it.

pub mod document;

/// Protocol version in `Hello`: both sides speak this one and the one before.
pub const PROTOCOL: u32 = 1;

/// Largest message in bytes that either side takes, `Submit` aside.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Largest chunk in bytes of a trace or an artifact.
pub const MAX_CHUNK_BYTES: usize = 256 << 10;

/// How long a certificate of a node or person holds, in seconds: 30 days. Its holder asks for a new one every third.
pub const CERTIFICATE_SECONDS: u64 = 30 * 24 * 3600;

/// Code made of the .proto files by tonic-prost-build.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod v1 {
    include!("gen/slipway.v1.rs");
}
