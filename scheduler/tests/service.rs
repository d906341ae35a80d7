//! The scheduler through its real gRPC interface on a real Unix socket, with nodes that do as the tests say.

#[path = "service/support.rs"]
mod support;

#[path = "service/access.rs"]
mod access;
#[path = "service/lives.rs"]
mod lives;
#[path = "service/pipelines.rs"]
mod pipelines;
#[path = "service/upstream.rs"]
mod upstream;
