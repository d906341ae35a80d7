//! `slipway token`, `join`, `revoke`: who may talk to a scheduler over TCP.

use crate::End;
use crate::client::{Address, said};
use anyhow::Result;
use slipway_runner::identity::Identity;
use slipway_wire::v1;
use std::path::PathBuf;

/// Arguments of `slipway token`.
#[derive(clap::Args)]
pub(crate) struct Token {
    #[command(flatten)]
    address: Address,
    /// Name of the node or person that joins with it.
    name: String,
    /// What it may do.
    #[arg(long, value_parser = ["node", "developer", "admin"], default_value = "node")]
    role: String,
    /// Seconds it may be used within.
    #[arg(long, default_value_t = 3600)]
    valid_seconds: u64,
}

impl Token {
    pub(crate) async fn execute(self) -> Result<End> {
        let request = v1::CreateTokenRequest { role: self.role, name: self.name, valid_seconds: self.valid_seconds };
        let reply = self.address.control().await?.create_token(request).await.map_err(|s| said(&s))?;
        println!("{}", reply.into_inner().text);
        Ok(End::Ok)
    }
}

/// Arguments of `slipway join`.
#[derive(clap::Args)]
pub(crate) struct Join {
    /// The scheduler: `https://HOST:PORT`.
    #[arg(long, env = "SLIPWAY_SCHEDULER")]
    scheduler: String,
    /// The line that `slipway token` printed.
    #[arg(long, env = "SLIPWAY_TOKEN", hide_env_values = true)]
    token: String,
    /// The name that the token was made for.
    #[arg(long)]
    name: String,
    /// Folder for the key and the certificate; name it as `identity` in `[runner]`, or with --identity.
    #[arg(long, default_value = "/etc/slipway/identity")]
    identity: PathBuf,
}

impl Join {
    pub(crate) async fn execute(self) -> Result<End> {
        Identity::join(&self.identity, &self.scheduler, &self.token, &self.name).await?;
        println!("{} joined {}; its identity is in {}", self.name, self.scheduler, self.identity.display());
        Ok(End::Ok)
    }
}

/// Arguments of `slipway revoke`.
#[derive(clap::Args)]
pub(crate) struct Revoke {
    #[command(flatten)]
    address: Address,
    /// Name of the node or person.
    name: String,
}

impl Revoke {
    pub(crate) async fn execute(self) -> Result<End> {
        let request = v1::RevokeRequest { name: self.name.clone() };
        self.address.control().await?.revoke(request).await.map_err(|s| said(&s))?;
        println!("{} can no longer connect", self.name);
        Ok(End::Ok)
    }
}
