//! `slipway status`: pipelines, one pipeline, one job, or the nodes.

use crate::End;
use crate::client::{Address, document, said};
use crate::live;
use crate::table::{Table, bytes, local};
use anyhow::Result;
use futures_util::TryStreamExt;
use slipway_spec::view::{JobView, NodeView, PipelineView};
use slipway_wire::v1;

/// Arguments of `slipway status`.
#[derive(clap::Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    address: Address,
    /// Number of a pipeline; without it, the newest pipelines.
    #[arg(conflicts_with_all = ["job", "nodes"])]
    pipeline: Option<u64>,
    /// A job by its number instead, with its receipt.
    #[arg(long, conflicts_with = "nodes")]
    job: Option<u64>,
    /// The nodes instead, with their pressure.
    #[arg(long)]
    nodes: bool,
    /// Only pipelines of this project.
    #[arg(long)]
    project: Option<String>,
    /// At most so many pipelines.
    #[arg(long, default_value_t = 20)]
    limit: u32,
    /// One JSON document a line.
    #[arg(long)]
    json: bool,
}

impl StatusArgs {
    pub(crate) async fn execute(self) -> Result<End> {
        if self.nodes {
            return self.show_nodes().await;
        }
        let mut control = self.address.control().await?;
        if let Some(id) = self.job {
            let reply = control.get_job(v1::IdRequest { id }).await.map_err(|s| said(&s))?;
            let job: JobView = document(&reply.into_inner())?;
            self.show_job(&job)?;
        } else if let Some(id) = self.pipeline {
            let reply = control.get_pipeline(v1::IdRequest { id }).await.map_err(|s| said(&s))?;
            let view: PipelineView = document(&reply.into_inner())?;
            if self.json {
                println!("{}", serde_json::to_string(&view)?);
            } else {
                let name = view.name.as_ref().map(|n| format!(" \"{n}\"")).unwrap_or_default();
                println!(
                    "pipeline {}{name} of {} {} {} by {}",
                    view.id, view.project, view.ref_name, view.sha, view.submitted_by
                );
                live::jobs(&view).print();
            }
        } else {
            self.list(control).await?;
        }
        Ok(End::Ok)
    }

    async fn list(&self, mut control: v1::control_client::ControlClient<tonic::transport::Channel>) -> Result<()> {
        let request = v1::ListRequest { project: self.project.clone().unwrap_or_default(), limit: self.limit };
        let mut stream = control.list_pipelines(request).await.map_err(|s| said(&s))?.into_inner();
        let mut table = Table::new(&["id", "project", "ref", "commit", "source", "state", "jobs", "created", "by"]);
        while let Some(reply) = stream.try_next().await.map_err(|s| said(&s))? {
            let p: PipelineView = document(&reply)?;
            if self.json {
                println!("{}", serde_json::to_string(&p)?);
                continue;
            }
            table.row(vec![
                p.id.to_string(),
                p.project,
                p.ref_name,
                p.sha.chars().take(8).collect(),
                p.source,
                p.status.as_str().into(),
                p.jobs.len().to_string(),
                local(p.created_at),
                p.submitted_by,
            ]);
        }
        if !self.json {
            table.print();
        }
        Ok(())
    }

    fn show_job(&self, job: &JobView) -> Result<()> {
        if self.json {
            println!("{}", serde_json::to_string(job)?);
            return Ok(());
        }
        println!("job {} {} ({}) of pipeline {}: {}", job.id, job.name, job.stage, job.pipeline, job.status.as_str());
        if !job.message.is_empty() {
            println!("  {}", job.message);
        }
        if let Some(node) = &job.node {
            println!("  node        {node}");
        }
        for artifact in &job.artifacts {
            println!("  artifact    {} {} ({})", artifact.kind, artifact.name, bytes(artifact.bytes));
        }
        if let Some(r) = &job.receipt {
            println!("  prepare     {:.2} s", r.prepare_seconds);
            println!("  sources     {:.2} s", r.sources_seconds);
            println!("  engine      {}", r.engine_seconds.map_or("none".into(), |s| format!("{s:.2} s")));
            println!("  script      {:.2} s", r.script_seconds);
            println!("  collect     {:.2} s", r.collect_seconds);
            let unknown = || "unavailable".to_owned();
            println!("  cpu         {}", r.cpu_seconds.map_or_else(unknown, |s| format!("{s:.2} s")));
            println!("  memory peak {}", r.memory_peak_bytes.map_or_else(unknown, bytes));
            println!("  read        {}", r.read_bytes.map_or_else(unknown, bytes));
            println!("  written     {}", r.written_bytes.map_or_else(unknown, bytes));
            println!("  generation  {}", r.generation.as_deref().unwrap_or("cold or no engine"));
        }
        Ok(())
    }

    async fn show_nodes(&self) -> Result<End> {
        let mut stream = self.address.control().await?.nodes(v1::Empty {}).await.map_err(|s| said(&s))?.into_inner();
        let mut table = Table::new(&[
            "node",
            "state",
            "jobs",
            "wall",
            "io wait",
            "queue",
            "await ms",
            "psi io",
            "memory free",
            "disk free",
            "cache",
            "builds",
        ]);
        while let Some(reply) = stream.try_next().await.map_err(|s| said(&s))? {
            let n: NodeView = document(&reply)?;
            if self.json {
                println!("{}", serde_json::to_string(&n)?);
                continue;
            }
            let disk = n.pressure.disk.as_ref();
            let share = |s: f64| format!("{:.0} %", s * 100.0);
            let missing = || "-".to_owned();
            table.row(vec![
                n.name,
                if n.online { "online".into() } else { format!("gone since {}", local(n.seen_at)) },
                format!("{}/{}", n.jobs.len(), n.capacity),
                n.wall,
                share(n.pressure.io_wait),
                disk.map_or_else(missing, |d| format!("{:.1}", d.queue_depth)),
                disk.and_then(|d| d.await_ms).map_or_else(missing, |ms| format!("{ms:.1}")),
                n.pressure.psi_io_some.map_or_else(missing, share),
                bytes(n.pressure.memory_available_bytes),
                bytes(n.pressure.disk_free_bytes),
                bytes(n.cache_bytes),
                n.refuses_builds.unwrap_or_else(|| "yes".into()),
            ]);
        }
        if !self.json {
            table.print();
        }
        Ok(End::Ok)
    }
}
