//! The way from a command to a scheduler.

use anyhow::{Context, Result, bail, ensure};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use slipway_runner::identity::Identity;
use slipway_wire::v1::Document;
use slipway_wire::v1::control_client::ControlClient;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tonic::codegen::http::Uri;
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

/// A channel to the scheduler at `address`, connected.
pub(crate) async fn connect(address: &str, identity: Option<&Path>) -> Result<Channel> {
    let (endpoint, connector) = way(address, identity)?;
    endpoint.connect_with_connector(connector).await.with_context(|| {
        format!("cannot reach the scheduler at {address}: start one (`slipway up --config F`), or name another with --scheduler")
    })
}

/// The same, connected when it is first used, and again whenever it broke.
pub(crate) fn connect_lazily(address: &str, identity: Option<&Path>) -> Result<Channel> {
    let (endpoint, connector) = way(address, identity)?;
    Ok(endpoint.connect_with_connector_lazy(connector))
}

fn way(address: &str, identity: Option<&Path>) -> Result<(Endpoint, Connector)> {
    if let Some(path) = address.strip_prefix("unix:") {
        return Ok((Endpoint::from_static("http://scheduler"), Connector::Unix(path.into())));
    }
    let bad = || format!("{address:?} is no address of a scheduler: expected unix:PATH or http(s)://HOST:PORT");
    let uri: Uri = address.parse().with_context(bad)?;
    let tls = uri.scheme_str() == Some("https");
    let host = uri.host().with_context(bad)?.trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let connector = match (tls, identity) {
        (true, Some(folder)) => Connector::Tls { host, port, identity: Identity::at(folder) },
        (true, None) => {
            bail!("an https scheduler asks for a certificate: give --identity FOLDER (made by `slipway join`)")
        }
        (false, _) => {
            let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
            ensure!(loopback, "{address} would be plain text over a network: use https (see `slipway join`)");
            Connector::Tcp { host, port }
        }
    };
    // The connector does TLS itself; to tonic every way is a plain one.
    let endpoint = Endpoint::from_static("http://scheduler").http2_keep_alive_interval(KEEPALIVE);
    Ok((endpoint.keep_alive_while_idle(true), connector))
}

/// Idle connections are probed so often, so that a vanished peer is noticed.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Opens a connection. An identity is read anew each time: a renewed certificate is used at the next connection.
#[derive(Clone)]
enum Connector {
    Unix(PathBuf),
    Tcp { host: String, port: u16 },
    Tls { host: String, port: u16, identity: Identity },
}

/// Any of the three kinds of connection.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Connector {
    async fn open(self) -> std::io::Result<TokioIo<Box<dyn Stream>>> {
        let stream: Box<dyn Stream> = match self {
            Connector::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Connector::Tcp { host, port } => Box::new(TcpStream::connect((host, port)).await?),
            Connector::Tls { host, port, identity } => {
                let config = identity.tls().map_err(std::io::Error::other)?;
                let name = rustls::pki_types::ServerName::try_from(host.clone()).map_err(std::io::Error::other)?;
                let tcp = TcpStream::connect((host, port)).await?;
                tcp.set_nodelay(true)?;
                Box::new(tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await?)
            }
        };
        Ok(TokioIo::new(stream))
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Stream>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().open())
    }
}

/// The document in a reply.
pub(crate) fn document<T: DeserializeOwned>(reply: &Document) -> Result<T> {
    Ok(slipway_wire::document::decode(&reply.json)?)
}

/// What the scheduler said, without gRPC's words around it.
pub(crate) fn said(status: &tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}
