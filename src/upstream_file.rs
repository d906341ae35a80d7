//! `[[upstream]]` tables in the configuration file: found, added, taken out; the rest of the file stays as it is.

use crate::config::{self, BadConfiguration};
use crate::serve::STATE_DIR;
use anyhow::{Context, Result, bail};
use slipway_scheduler::upstream::gitlab::client::Client;
use slipway_scheduler::upstream::gitlab::config::{Pace, UpstreamConfig};
use slipway_scheduler::upstream::gitlab::spool::write_whole;
use slipway_scheduler::upstream::gitlab::system_id;
use slipway_scheduler::upstream::gitlab::tokens::Tokens;
use std::path::{Path, PathBuf};

/// Where the configuration is, when nothing else is said.
#[derive(clap::Args, Clone)]
pub(crate) struct ConfigFile {
    /// The configuration file.
    #[arg(short = 'c', long, env = "CONFIG_FILE", default_value = "/etc/slipway/slipway.toml")]
    config: PathBuf,
}

/// The file, read.
pub(crate) struct UpstreamFile {
    path: PathBuf,
    text: String,
    /// Its `[[upstream]]` tables, in order.
    pub(crate) upstreams: Vec<UpstreamConfig>,
    state: PathBuf,
}

impl ConfigFile {
    /// Reads the file; one that is not there is empty.
    pub(crate) fn read(&self) -> Result<UpstreamFile> {
        let text = match config::read(&self.config) {
            Ok(text) => text,
            Err(e) if !self.config.exists() => {
                tracing::debug!("{e:#}");
                String::new()
            }
            Err(e) => return Err(e),
        };
        UpstreamFile::parse(&self.config, text)
    }
}

impl UpstreamFile {
    fn parse(path: &Path, text: String) -> Result<UpstreamFile> {
        let upstreams = config::upstreams(&text, path)?;
        let state = config::scheduler(&text, path)?.state_dir.unwrap_or_else(|| STATE_DIR.into());
        Ok(UpstreamFile { path: path.to_path_buf(), text, upstreams, state })
    }

    /// The file's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The machine's identity; made when there is none.
    pub(crate) fn system_id(&self) -> Result<String> {
        std::fs::create_dir_all(&self.state)
            .with_context(|| format!("cannot make the scheduler's folder {}", self.state.display()))?;
        Ok(system_id::load(&self.state)?)
    }

    /// The token in use: the configured one, or its successor that the scheduler keeps.
    pub(crate) fn token(&self, upstream: &UpstreamConfig) -> Result<String> {
        let folder = self.state.join("upstreams").join(&upstream.name);
        Ok(Tokens::load(upstream, &folder, jiff::Timestamp::now())?.get())
    }

    /// The upstreams that `--name`, `--url`, `--token` mean, all when none is given.
    ///
    /// # Errors
    /// None is meant.
    pub(crate) fn select(&self, which: &Which) -> Result<Vec<UpstreamConfig>> {
        let is = |given: &Option<String>, own: &str| given.as_ref().is_none_or(|g| g == own);
        let mut found = Vec::new();
        for upstream in &self.upstreams {
            let token_is = match &which.token {
                Some(token) => {
                    *token == upstream.configured_token().unwrap_or_default() || *token == self.token(upstream)?
                }
                None => true,
            };
            let url_is =
                which.url.as_ref().is_none_or(|u| u.trim_end_matches('/') == upstream.url.trim_end_matches('/'));
            if is(&which.name, &upstream.name) && url_is && token_is {
                found.push(upstream.clone());
            }
        }
        if found.is_empty() {
            bail!("no [[upstream]] of {} is meant; `slipway list` shows them", self.path.display());
        }
        Ok(found)
    }

    /// A name that no upstream has: the wanted one made fit, with a number where it is taken.
    pub(crate) fn free_name(&self, wanted: &str) -> String {
        let fit: String = wanted
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' })
            .collect();
        let fit = fit.trim_matches(['-', '.']);
        let fit = if fit.is_empty() { "gitlab" } else { fit };
        let taken = |name: &str| self.upstreams.iter().any(|u| u.name == name);
        if !taken(fit) {
            return fit.to_owned();
        }
        (2..).map(|n| format!("{fit}-{n}")).find(|name| !taken(name)).expect("numbers do not end")
    }

    /// Adds a table at the end of the file.
    pub(crate) fn add(&mut self, upstream: &UpstreamConfig) -> Result<()> {
        let faults = upstream.faults();
        if !faults.is_empty() {
            bail!(BadConfiguration(faults.join("\n")));
        }
        let gap = if self.text.is_empty() { "" } else { "\n" };
        let ending = if self.text.is_empty() || self.text.ends_with('\n') { "" } else { "\n" };
        self.write(format!("{}{ending}{gap}{}", self.text, table_text(upstream)))
    }

    /// Takes a table out of the file.
    pub(crate) fn remove(&mut self, name: &str) -> Result<()> {
        let without = without_table(&self.text, name).with_context(|| {
            format!("cannot find [[upstream]] `{name}` in {} line by line: take it out by hand", self.path.display())
        })?;
        let left = config::upstreams(&without, &self.path)?;
        let expected: Vec<&str> = self.upstreams.iter().map(|u| u.name.as_str()).filter(|n| *n != name).collect();
        if left.iter().map(|u| u.name.as_str()).collect::<Vec<_>>() != expected {
            bail!("taking [[upstream]] `{name}` out of {} would change more: do it by hand", self.path.display());
        }
        self.write(without)
    }

    fn write(&mut self, text: String) -> Result<()> {
        let cannot = || format!("cannot write {}", self.path.display());
        if let Some(folder) = self.path.parent().filter(|f| !f.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).with_context(cannot)?;
        }
        // Through a link to where the file really is.
        let target = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        write_whole(&target, text.as_bytes()).with_context(cannot)?;
        *self = UpstreamFile::parse(&self.path, text)?;
        Ok(())
    }
}

/// Which upstreams a command is about.
#[derive(clap::Args, Clone, Default)]
pub(crate) struct Which {
    /// The upstream's name.
    #[arg(long, short = 'n', visible_alias = "description", env = "RUNNER_NAME")]
    pub(crate) name: Option<String>,
    /// The server's address.
    #[arg(long, short = 'u', env = "CI_SERVER_URL")]
    pub(crate) url: Option<String>,
    /// The runner's token.
    #[arg(long, short = 't', env = "CI_SERVER_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
}

impl Which {
    /// Nothing is given.
    pub(crate) fn is_empty(&self) -> bool {
        self.name.is_none() && self.url.is_none() && self.token.is_none()
    }
}

/// The server's client.
pub(crate) fn client(upstream: &UpstreamConfig) -> Result<Client> {
    Client::new(upstream, Pace::default()).with_context(|| format!("upstream `{}`", upstream.name))
}

/// A table without the keys that have their default.
pub(crate) fn table_text(upstream: &UpstreamConfig) -> String {
    let fields = |config: &UpstreamConfig| toml::Table::try_from(config).expect("plain values");
    let defaults = fields(&UpstreamConfig::new("", "", ""));
    let mut text = "[[upstream]]\n".to_owned();
    for (key, value) in fields(upstream) {
        if defaults.get(&key) != Some(&value) {
            let name = toml::Value::String(key.clone());
            let key =
                if key.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)) { key } else { name.to_string() };
            text.push_str(&format!("{key} = {value}\n"));
        }
    }
    text
}

/// The text without the `[[upstream]]` table of a name: from its header to the next table.
fn without_table(text: &str, name: &str) -> Option<String> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let heads: Vec<usize> = (0..lines.len()).filter(|n| lines[*n].trim_start().starts_with('[')).collect();
    for (index, start) in heads.iter().enumerate() {
        let end = heads.get(index + 1).copied().unwrap_or(lines.len());
        let header = lines[*start].split('#').next().unwrap_or("").replace([' ', '\t'], "");
        if header.trim() != "[[upstream]]" {
            continue;
        }
        let block = lines[*start..end].concat();
        let named = block
            .parse::<toml::Table>()
            .ok()
            .and_then(|t| t.get("upstream")?.as_array()?.first()?.get("name")?.as_str().map(|n| n == name));
        if named == Some(true) {
            // Comments and blank lines before the next table belong to it.
            let kept = (*start..end).rev().take_while(|n| {
                let line = lines[*n].trim();
                end < lines.len() && (line.is_empty() || line.starts_with('#'))
            });
            let end = kept.last().unwrap_or(end);
            return Some([&lines[..*start], &lines[end..]].concat().concat());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# ours\n[scheduler]\nurl = \"http://x\"\n\n[[upstream]]\nname = \"a\"\nurl = \"https://a\"\ntoken = \"t\"\n\n# about b\n[[upstream]]\nname = \"b\" # the second\nurl = \"https://b\"\ntoken = \"t\"\n";

    #[test]
    fn table_is_taken_out_and_everything_else_stays() {
        let without = without_table(TEXT, "a").unwrap();
        assert_eq!(
            without,
            "# ours\n[scheduler]\nurl = \"http://x\"\n\n\n# about b\n[[upstream]]\nname = \"b\" # the second\nurl = \"https://b\"\ntoken = \"t\"\n"
        );
        assert_eq!(without_table(&without, "b").unwrap(), "# ours\n[scheduler]\nurl = \"http://x\"\n\n\n# about b\n");
        assert_eq!(without_table(TEXT, "c"), None);
    }

    #[test]
    fn added_table_reads_as_what_was_added() {
        let dir = tempfile::tempdir().unwrap();
        let file = ConfigFile { config: dir.path().join("new/slipway.toml") };
        let mut upstream = UpstreamConfig::new("a", "https://host", "glrt-1");
        upstream.limit = 3;
        upstream.environment = vec!["A=\"b\"".into()];
        let mut read = file.read().unwrap();
        read.add(&upstream).unwrap();
        let mut second = upstream.clone();
        second.name = read.free_name("a");
        assert_eq!(second.name, "a-2");
        read.add(&second).unwrap();
        assert_eq!(file.read().unwrap().upstreams, [upstream.clone(), second]);
        read.remove("a-2").unwrap();
        assert_eq!(file.read().unwrap().upstreams, [upstream]);
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(dir.path().join("new/slipway.toml")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn names_are_made_fit() {
        let file = UpstreamFile::parse(Path::new("f"), TEXT.to_owned()).unwrap();
        assert_eq!(file.free_name("my runner (1)"), "my-runner--1");
        assert_eq!(file.free_name("…"), "gitlab");
        assert_eq!(file.free_name("a"), "a-2");
    }
}
