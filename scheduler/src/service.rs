//! gRPC on one side, the driver on the other.
//!
//! | module | noun |
//! |---|---|
//! | [`caller`] | who calls, and what they may do |
//! | [`control`] | what people ask |
//! | [`runner`] | what nodes say |

pub mod caller;
pub mod control;
pub mod runner;

use crate::artifacts::ArtifactError;
use crate::driver::Denied;
use crate::store::StoreError;
use crate::traces::TraceError;
use slipway_wire::MAX_MESSAGE_BYTES;
use slipway_wire::v1::control_server::ControlServer;
use slipway_wire::v1::runner_server::RunnerServer;
use tonic::Status;

/// Largest Submit.
pub const MAX_SUBMIT_BYTES: usize = 64 << 20;

/// The services, to be mounted on any transport.
#[derive(Clone)]
pub struct Services {
    /// What nodes say.
    pub runner: RunnerServer<runner::RunnerService>,
    /// What people ask.
    pub control: ControlServer<control::ControlService>,
}

impl Services {
    pub(crate) fn new(runner: runner::RunnerService, control: control::ControlService) -> Services {
        Services {
            runner: RunnerServer::new(runner)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_SUBMIT_BYTES),
            control: ControlServer::new(control)
                .max_decoding_message_size(MAX_SUBMIT_BYTES)
                .max_encoding_message_size(MAX_SUBMIT_BYTES),
        }
    }

    /// Both of them, ready to be served.
    #[must_use]
    pub fn router(&self) -> tonic::transport::server::Router {
        tonic::transport::Server::builder().add_service(self.runner.clone()).add_service(self.control.clone())
    }
}

impl From<Denied> for Status {
    fn from(denied: Denied) -> Status {
        let text = denied.to_string();
        match denied {
            Denied::Unknown(_) => Status::not_found(text),
            Denied::State { .. } | Denied::Nothing(_) | Denied::Empty => Status::failed_precondition(text),
            Denied::Store(_) => Status::internal(text),
            Denied::Stopped => Status::unavailable(text),
        }
    }
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Status {
        Status::internal(error.to_string())
    }
}

impl From<TraceError> for Status {
    fn from(error: TraceError) -> Status {
        let text = error.to_string();
        match error {
            TraceError::StaleFence { .. } => Status::failed_precondition(text),
            TraceError::File { .. } => Status::internal(text),
        }
    }
}

impl From<ArtifactError> for Status {
    fn from(error: ArtifactError) -> Status {
        let text = error.to_string();
        match error {
            ArtifactError::TooLarge { .. } => Status::out_of_range(text),
            ArtifactError::Disk { .. } => Status::internal(text),
        }
    }
}
