//! `slipway artifacts ls|get`: what jobs left.

use crate::End;
use crate::client::{Address, document, said};
use crate::table::{Table, bytes, local};
use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use slipway_spec::view::JobView;
use slipway_wire::v1;
use std::io::Write;
use std::path::PathBuf;

/// Arguments of `slipway artifacts`.
#[derive(clap::Args)]
pub(crate) struct Artifacts {
    #[command(flatten)]
    address: Address,
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// List what a job left.
    Ls {
        /// Number of the job.
        job: u64,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Write one artifact to a file.
    Get {
        /// Number of the job.
        job: u64,
        /// Which: `archive`, `junit`, `dotenv`, …
        #[arg(long, default_value = "archive")]
        kind: String,
        /// The file; `-` for standard output. Without it, the artifact's own name here.
        #[arg(short, long)]
        output: Option<PathBuf>,
    },
}

impl Artifacts {
    pub(crate) async fn execute(self) -> Result<End> {
        let mut control = self.address.control().await?;
        let (Action::Ls { job, .. } | Action::Get { job, .. }) = &self.action;
        let reply = control.get_job(v1::IdRequest { id: *job }).await.map_err(|s| said(&s))?;
        let view: JobView = document(&reply.into_inner())?;
        match self.action {
            Action::Ls { json, .. } => {
                if json {
                    println!("{}", serde_json::to_string(&view.artifacts)?);
                    return Ok(End::Ok);
                }
                let mut table = Table::new(&["kind", "name", "size", "expires"]);
                for a in view.artifacts {
                    table.row(vec![a.kind, a.name, bytes(a.bytes), a.expires_at.map_or("never".into(), local)]);
                }
                table.print();
            }
            Action::Get { job, kind, output } => {
                let Some(found) = view.artifacts.iter().find(|a| a.kind == kind) else {
                    let kinds: Vec<_> = view.artifacts.iter().map(|a| a.kind.as_str()).collect();
                    anyhow::bail!("job {job} left no {kind:?}; it left: {}", kinds.join(", "));
                };
                let request = v1::ArtifactRequest { job, kind };
                let mut stream = control.get_artifact(request).await.map_err(|s| said(&s))?.into_inner();
                // The name comes from the job: only its last part may choose where we write.
                let own = std::path::Path::new(&found.name).file_name().map_or("artifact".into(), PathBuf::from);
                let path = output.unwrap_or(own);
                let mut to: Box<dyn Write> = if path.as_os_str() == "-" {
                    Box::new(std::io::stdout().lock())
                } else {
                    Box::new(std::fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()))?)
                };
                while let Some(chunk) = stream.try_next().await.map_err(|s| said(&s))? {
                    to.write_all(&chunk.data).with_context(|| format!("cannot write {}", path.display()))?;
                }
                to.flush().with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
        Ok(End::Ok)
    }
}
