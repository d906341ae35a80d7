//! slipway-spec's types as JSON inside protobuf messages.

use serde::{Serialize, de::DeserializeOwned};

/// A document that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {what} from the other side: {source}; one of the two builds is too old for the other")]
pub struct Unreadable {
    /// Name of the type.
    what: &'static str,
    /// What serde says.
    source: serde_json::Error,
}

impl From<Unreadable> for tonic::Status {
    fn from(e: Unreadable) -> Self {
        tonic::Status::invalid_argument(e.to_string())
    }
}

/// JSON bytes of a document.
///
/// # Panics
/// Never for slipway-spec's types: their maps have string keys.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("slipway-spec's types are JSON")
}

/// The document in `bytes`.
///
/// # Errors
/// When the bytes are not that type's JSON.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Unreadable> {
    serde_json::from_slice(bytes).map_err(|source| Unreadable { what: std::any::type_name::<T>(), source })
}
