//! `slipway list`, `verify`, `unregister`: the GitLab servers that we are a runner of.

use crate::End;
use crate::upstream_file::{self, ConfigFile, Which};
use anyhow::{Result, bail};
use serde_json::json;
use slipway_scheduler::upstream::gitlab::register;

/// Show the GitLab servers that we are a runner of.
#[derive(clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    file: ConfigFile,
    /// As JSON, one line a server.
    #[arg(long)]
    json: bool,
}

impl List {
    pub(crate) fn execute(self) -> Result<End> {
        for upstream in self.file.read()?.upstreams {
            let token = upstream.configured_token().unwrap_or_default();
            let short = register::short_token(&token);
            if self.json {
                let line = json!({
                    "name": upstream.name, "url": upstream.url, "id": upstream.id, "token": short,
                    "tags": upstream.tags, "architecture": upstream.architecture, "limit": upstream.limit,
                });
                println!("{line}");
            } else {
                let id = upstream.id.map(|id| format!("  runner {id}")).unwrap_or_default();
                println!("{}  {}  token {short}…{id}", upstream.name, upstream.url);
            }
        }
        Ok(End::Ok)
    }
}

/// Ask GitLab servers whether they know us.
#[derive(clap::Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    which: Which,
    /// Take those that do not know us out of the configuration.
    #[arg(long)]
    delete: bool,
}

impl Verify {
    pub(crate) async fn execute(self) -> Result<End> {
        let mut file = self.file.read()?;
        let system_id = file.system_id()?;
        let mut end = End::Ok;
        for upstream in file.select(&self.which)? {
            let token = file.token(&upstream)?;
            let client = upstream_file::client(&upstream)?;
            match register::verify(&client, &token, &system_id, upstream.architecture.as_deref()).await {
                Ok(_) => println!("{}  {}  is alive", upstream.name, upstream.url),
                Err(error) => {
                    eprintln!("{}  {}  {error}", upstream.name, upstream.url);
                    end = End::Failed;
                    // Only what the server says counts; one that is away may come back.
                    if self.delete && matches!(error, register::RegisterError::Forbidden(_)) {
                        file.remove(&upstream.name)?;
                        println!("{}  was taken out of {}", upstream.name, file.path().display());
                    }
                }
            }
        }
        Ok(end)
    }
}

/// Cease to be a runner of a GitLab server.
#[derive(clap::Args)]
pub(crate) struct Unregister {
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    which: Which,
    /// All of them.
    #[arg(long)]
    all_runners: bool,
}

impl Unregister {
    pub(crate) async fn execute(self) -> Result<End> {
        if self.which.is_empty() != self.all_runners {
            bail!("say which: --name, or --url and --token, or --all-runners");
        }
        let mut file = self.file.read()?;
        let system_id = file.system_id()?;
        let mut end = End::Ok;
        for upstream in file.select(&self.which)? {
            let token = file.token(&upstream)?;
            let client = upstream_file::client(&upstream)?;
            match register::unregister(&client, &token, &system_id).await {
                Ok(()) => {
                    file.remove(&upstream.name)?;
                    println!("{}  {}  was unregistered", upstream.name, upstream.url);
                }
                Err(error) => {
                    eprintln!("{}  {}  {error}", upstream.name, upstream.url);
                    end = End::Failed;
                }
            }
        }
        Ok(end)
    }
}
