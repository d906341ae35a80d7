//! `slipway`: one binary. This crate is wiring, flags and printing; the decisions are in the scheduler and the runner.

mod access;
mod artifacts;
mod cache;
mod client;
mod config;
mod control;
mod deployments;
mod doctor;
mod hook;
mod import_config;
mod lint;
mod live;
mod logs;
mod register;
mod run;
mod serve;
mod status;
mod submit;
mod table;
mod top;
mod upstream_file;
mod upstreams;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Self-hosted CI for container builds: a private, warm Docker engine for every job, placed by disk pressure.
#[derive(Parser)]
#[command(version, max_term_width = 110, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check a .gitlab-ci.yml, and print its plan.
    Lint(lint::Lint),
    /// Run the pipeline of the commit at HEAD, here, without a server.
    Run(run::Run),
    /// Run a scheduler and a runner in one process, as a service does.
    Up(serve::Serve),
    /// Run a scheduler.
    Scheduler(serve::Serve),
    /// Run a runner: one node.
    Runner(serve::Serve),
    /// Say what this machine can do as a node, and what it lacks.
    Doctor(doctor::Doctor),
    /// Make a pipeline of a commit.
    Submit(submit::Submit),
    /// Show pipelines, one pipeline, one job or the nodes.
    Status(status::StatusArgs),
    /// Watch the nodes: jobs, disks, memory, cache.
    Top(top::Top),
    /// Print a job's trace.
    Logs(logs::Logs),
    /// End a job or a pipeline.
    Cancel(control::Cancel),
    /// Run a finished job, or the failed jobs of a pipeline, again.
    Retry(control::Retry),
    /// Start a manual or delayed job now.
    Play(control::Play),
    /// Say in a sentence why a job waits, or why it ran where it ran.
    Explain(control::Explain),
    /// Show the record of deployments.
    Deployments(deployments::Deployments),
    /// List or fetch what jobs left.
    Artifacts(artifacts::Artifacts),
    /// List, roll back, drop, collect or verify this node's layers.
    Cache(cache::Cache),
    /// Tell the scheduler of a push: a bare repository's post-receive hook.
    Hook(hook::Hook),
    /// Make a one-time token with which a node or a person joins.
    Token(access::Token),
    /// Trade a token for an identity: a key and a certificate.
    Join(access::Join),
    /// Take a node's or person's certificate back.
    Revoke(access::Revoke),
    /// Become a runner of a GitLab server.
    Register(Box<register::Register>),
    /// Ask GitLab servers whether they know us.
    Verify(upstreams::Verify),
    /// Cease to be a runner of a GitLab server.
    Unregister(upstreams::Unregister),
    /// Show the GitLab servers that we are a runner of.
    List(upstreams::List),
    /// Turn an official runner's config.toml into ours.
    ImportConfig(import_config::ImportConfig),
}

/// How a command ends: 0 well, 1 the pipeline or the call failed, 2 a configuration error.
pub(crate) enum End {
    Ok,
    Failed,
    BadConfiguration,
}

fn main() -> ExitCode {
    // An engine's door has no flags, one thread and gives up its rights: it goes before everything else.
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("engine-door") {
        return match slipway_runner::engine::door::serve(&arguments.collect::<Vec<_>>()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("slipway: cannot answer for an engine: {e}");
                ExitCode::FAILURE
            }
        };
    }
    let cli = Cli::parse();
    let quiet = matches!(cli.command, Command::Run(_));
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("SLIPWAY_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(if quiet { "warn" } else { "info" })),
        )
        .init();
    // One TLS provider for every client and server of the process; a second call would only say that it is there.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("slipway: cannot start its threads: {e}");
            return ExitCode::FAILURE;
        }
    };
    let end = runtime.block_on(dispatch(cli.command));
    // A blocking read of standard input or a slow disk must not keep a finished command from ending.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    match end {
        Ok(End::Ok) => ExitCode::SUCCESS,
        Ok(End::Failed) => ExitCode::from(1),
        Ok(End::BadConfiguration) => ExitCode::from(2),
        Err(e) => {
            eprintln!("slipway: {e:#}");
            if e.downcast_ref::<config::BadConfiguration>().is_some() { ExitCode::from(2) } else { ExitCode::from(1) }
        }
    }
}

async fn dispatch(command: Command) -> anyhow::Result<End> {
    match command {
        Command::Lint(args) => args.run(),
        Command::Run(args) => args.execute().await,
        Command::Up(args) => args.execute(serve::Role::Both).await,
        Command::Scheduler(args) => args.execute(serve::Role::Scheduler).await,
        Command::Runner(args) => args.execute(serve::Role::Runner).await,
        Command::Doctor(args) => args.execute().await,
        Command::Submit(args) => args.execute().await,
        Command::Status(args) => args.execute().await,
        Command::Top(args) => args.execute().await,
        Command::Logs(args) => args.execute().await,
        Command::Cancel(args) => args.execute().await,
        Command::Retry(args) => args.execute().await,
        Command::Play(args) => args.execute().await,
        Command::Explain(args) => args.execute().await,
        Command::Deployments(args) => args.execute().await,
        Command::Artifacts(args) => args.execute().await,
        Command::Cache(args) => args.execute().await,
        Command::Hook(args) => args.execute().await,
        Command::Token(args) => args.execute().await,
        Command::Join(args) => args.execute().await,
        Command::Revoke(args) => args.execute().await,
        Command::Register(args) => args.execute().await,
        Command::Verify(args) => args.execute().await,
        Command::Unregister(args) => args.execute().await,
        Command::List(args) => args.execute(),
        Command::ImportConfig(args) => args.execute(),
    }
}
