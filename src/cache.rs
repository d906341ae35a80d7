//! `slipway cache ls|rollback|drop|gc|verify`: the layer store of this node.

use crate::End;
use crate::table::{Table, bytes, local};
use anyhow::{Context, Result};
use serde::Serialize;
use slipway_runner::layers::lineage::LineageKey;
use slipway_runner::layers::{self, Store};
use std::path::PathBuf;

/// Arguments of `slipway cache`.
#[derive(clap::Args)]
pub(crate) struct Cache {
    /// The node's `cache_root`.
    #[arg(long, global = true, env = "SLIPWAY_CACHE_ROOT", default_value = "/var/cache/slipway")]
    cache_root: PathBuf,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// List lineages and their generations; bytes that several share count once in the total.
    Ls,
    /// Let jobs start from an older generation again: LINEAGE goes to the one before, LINEAGE@N to N.
    Rollback {
        /// A lineage's name or the beginning of it, with `@N` for one of its generations.
        lineage: String,
    },
    /// Drop a lineage with all its generations, or the one generation LINEAGE@N.
    Drop {
        /// A lineage's name or the beginning of it, with `@N` for one of its generations.
        lineage: String,
    },
    /// Remove what nothing names, and what is beyond the node's budget.
    Gc,
    /// Read everything and compare it with what was recorded; exits with 1 when something is wrong.
    Verify,
}

impl Cache {
    pub(crate) async fn execute(self) -> Result<End> {
        // All of it is disk work; nothing else runs in this process.
        tokio::task::spawn_blocking(move || self.run()).await?
    }

    fn run(self) -> Result<End> {
        let root = self.cache_root.join(layers::FOLDER);
        let store = Store::open_existing(&root).context("cannot open the layer store")?;
        match &self.action {
            Action::Ls => self.ls(&store),
            Action::Rollback { lineage } => {
                let (key, number) = named(&store, lineage)?;
                let generation = store.rollback(&key, number).context("cannot roll back")?;
                self.say(&Done { generation: generation.to_string() }, || format!("jobs start from {generation} now"))
            }
            Action::Drop { lineage } => {
                let (key, number) = named(&store, lineage)?;
                let collected = store.drop(&key, number).context("cannot drop")?;
                self.say(&collected, || freed(&collected))
            }
            Action::Gc => {
                let collected = store.gc().context("cannot collect")?;
                self.say(&collected, || freed(&collected))
            }
            Action::Verify => {
                let verified = store.verify().context("cannot verify")?;
                self.say(&verified, || {
                    let mut lines: Vec<String> = verified
                        .faults
                        .iter()
                        .map(|fault| {
                            let needed: Vec<String> = fault.generations.iter().map(ToString::to_string).collect();
                            let needed = match needed.as_slice() {
                                [] => String::new(),
                                some => format!(" (needed by {})", some.join(", ")),
                            };
                            format!("{}: {}{needed}", fault.path.display(), fault.text)
                        })
                        .collect();
                    lines.push(format!(
                        "{} generations, {} layers, {} read: {}",
                        verified.generations,
                        verified.layers,
                        bytes(verified.bytes),
                        if verified.is_sound() {
                            "sound".to_owned()
                        } else {
                            format!("{} faults", verified.faults.len())
                        }
                    ));
                    lines.join("\n")
                })?;
                Ok(if verified.is_sound() { End::Ok } else { End::Failed })
            }
        }
    }

    fn ls(&self, store: &Store) -> Result<End> {
        let listing = store.list().context("cannot list")?;
        self.say(&listing, || {
            let mut table = Table::new(&[
                "lineage",
                "@",
                "made",
                "last used",
                "job",
                "commit",
                "builds s",
                "saves s",
                "layers",
                "size",
                "own",
            ]);
            for lineage in &listing.lineages {
                for g in &lineage.generations {
                    let mark = match (g.current, g.in_use_by) {
                        (true, 0) => "*".to_owned(),
                        (true, n) => format!("* ({n} in use)"),
                        (false, 0) => String::new(),
                        (false, n) => format!("({n} in use)"),
                    };
                    table.row(vec![
                        lineage.lineage.to_string(),
                        format!("{} {mark}", g.number).trim_end().to_owned(),
                        local(g.made_at),
                        g.used_at.map_or("-".to_owned(), local),
                        g.job.to_string(),
                        g.commit.chars().take(8).collect(),
                        format!("{:.1}", g.build_seconds),
                        format!("{:.1}", g.total_build_seconds),
                        g.layers.to_string(),
                        bytes(g.bytes),
                        bytes(g.bytes_of_its_own),
                    ]);
                }
            }
            let total = format!("{} of {} (* jobs start from it)", bytes(listing.bytes), bytes(listing.budget_bytes));
            format!("{}\n{total}", table.text())
        })
    }

    fn say<T: Serialize>(&self, document: &T, text: impl FnOnce() -> String) -> Result<End> {
        println!("{}", if self.json { serde_json::to_string(document)? } else { text() });
        Ok(End::Ok)
    }
}

/// What `rollback` prints as JSON.
#[derive(Serialize)]
struct Done {
    generation: String,
}

fn freed(collected: &layers::collect::Collected) -> String {
    let names: Vec<String> = collected.generations.iter().map(ToString::to_string).collect();
    let names = if names.is_empty() { "no generation".to_owned() } else { names.join(", ") };
    format!("removed {names} and {} layers: {}", collected.layers, bytes(collected.bytes))
}

/// `LINEAGE` or `LINEAGE@N`.
fn named(store: &Store, text: &str) -> Result<(LineageKey, Option<u64>)> {
    let (name, number) = match text.rsplit_once('@') {
        None => (text, None),
        Some((name, number)) => {
            let number = number.parse().with_context(|| format!("{number:?} is not a generation's number"))?;
            (name, Some(number))
        }
    };
    Ok((store.find(name)?, number))
}
