//! The way from a command to a scheduler.

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use slipway_runner::identity::Identity;
use slipway_wire::v1::Document;
use slipway_wire::v1::control_client::ControlClient;
use std::path::{Path, PathBuf};
use tonic::transport::{Channel, Endpoint};

/// Where the scheduler is, and who asks.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Address {
    /// The scheduler: `unix:PATH`, `http://HOST:PORT` on loopback, or `https://HOST:PORT`.
    #[arg(long, env = "SLIPWAY_SCHEDULER", default_value = "unix:/run/slipway/scheduler.sock", global = true)]
    scheduler: String,
    /// Folder with `client.pem`, `client.key` and `ca.pem` for an https scheduler (`slipway join` writes it).
    #[arg(long, env = "SLIPWAY_IDENTITY", global = true)]
    identity: Option<PathBuf>,
}

impl Address {
    /// A client of the control service.
    pub(crate) async fn control(&self) -> Result<ControlClient<Channel>> {
        let channel = connect(&self.scheduler, self.identity.as_deref()).await?;
        Ok(ControlClient::new(channel).max_decoding_message_size(64 << 20).max_encoding_message_size(64 << 20))
    }
}

/// A channel to the scheduler at `address`.
pub(crate) async fn connect(address: &str, identity: Option<&Path>) -> Result<Channel> {
    if let Some(path) = address.strip_prefix("unix:") {
        return unix(Path::new(path)).await;
    }
    let mut endpoint = Endpoint::from_shared(address.to_owned()).with_context(|| {
        format!("{address:?} is no address of a scheduler: expected unix:PATH or http(s)://HOST:PORT")
    })?;
    if address.starts_with("https:") {
        let Some(folder) = identity else {
            anyhow::bail!("an https scheduler asks for a certificate: give --identity FOLDER (made by `slipway join`)");
        };
        let tls = Identity::at(folder).tls()?;
        endpoint = endpoint.tls_config(tls).context("cannot use the TLS identity")?;
    }
    endpoint.connect().await.with_context(|| format!("cannot reach the scheduler at {address}: does it run there?"))
}

async fn unix(path: &Path) -> Result<Channel> {
    let path = path.to_owned();
    let shown = path.display().to_string();
    Endpoint::from_static("http://scheduler")
        .connect_with_connector(tower::service_fn(move |_| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        }))
        .await
        .with_context(|| {
            format!("cannot reach the scheduler at unix:{shown}: start one (`slipway up --config F`) or name another with --scheduler")
        })
}

/// The document in a reply.
pub(crate) fn document<T: DeserializeOwned>(reply: &Document) -> Result<T> {
    Ok(slipway_wire::document::decode(&reply.json)?)
}

/// What the scheduler said, without gRPC's words around it.
pub(crate) fn said(status: &tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}
