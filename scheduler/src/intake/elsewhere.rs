//! Files that a configuration includes from elsewhere: other registered projects, their components, and addresses on
//! hosts that the configuration lists. What is not registered or listed is not reached: a commit must not be able to
//! make the scheduler ask the network for it.

use super::mirror;
use crate::config::Config;
use crate::pipeline::fetch::{Fetch, FetchError, Fetched, Location, Repository};
use crate::pipeline::git_tree::{Base, GitTree};
use crate::pipeline::load::MAX_FILE_BYTES;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// All addresses of one configuration together; GitLab's number.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// The pipeline's own commit, and what may be reached from it. Used on a thread that may block.
pub(super) struct Elsewhere<'a> {
    pub(super) tree: &'a GitTree,
    pub(super) config: &'a Config,
    /// Where copies of repositories that are elsewhere lie.
    pub(super) mirrors: &'a Path,
    pub(super) until: Instant,
}

impl<'a> Elsewhere<'a> {
    pub(super) fn new(tree: &'a GitTree, config: &'a Config, mirrors: &'a Path) -> Self {
        Elsewhere { tree, config, mirrors, until: Instant::now() + MAX_WAIT }
    }

    fn folder(&self, project: &str) -> Result<PathBuf, FetchError> {
        let known = self.config.project(project).ok_or_else(|| {
            FetchError::Unavailable(format!("{project} is not a [[project]] of the scheduler's configuration"))
        })?;
        if Path::new(&known.repository).is_absolute() {
            return Ok(PathBuf::from(&known.repository));
        }
        let copy = mirror::updated(self.mirrors, &known.repository);
        let handle = Handle::try_current().map_err(|e| FetchError::Unavailable(e.to_string()))?;
        handle.block_on(copy).map_err(FetchError::Unavailable)
    }

    fn open(&self, repository: &Repository) -> Result<GitTree, FetchError> {
        let folder = self.folder(&repository.project)?;
        let default = self.config.project(&repository.project).and_then(|p| p.default_branch.as_deref());
        let revision = repository.reference.as_deref().or(default).unwrap_or("HEAD");
        GitTree::open(&folder, revision, Base::Nothing).map_err(|e| FetchError::Unavailable(e.to_string()))
    }

    /// `host/group/project/name@version`: `templates/name.yml` or `templates/name/template.yml` of that project.
    fn component(&self, address: &str) -> Result<Fetched, FetchError> {
        let bad = || FetchError::Unavailable(format!("{address:?} is not like host/group/project/name@version"));
        let (path, version) = address.rsplit_once('@').ok_or_else(bad)?;
        let (_host, path) = path.split_once('/').ok_or_else(bad)?;
        let (project, name) = path.rsplit_once('/').ok_or_else(bad)?;
        let reference = match version {
            "~latest" => self.latest(project)?,
            version => version.to_string(),
        };
        let repository = Repository { project: project.to_string(), reference: Some(reference) };
        let tree = self.open(&repository)?;
        let mut last = FetchError::Missing;
        for path in [format!("templates/{name}.yml"), format!("templates/{name}/template.yml")] {
            match tree.fetch(&Location::File { repository: None, path }) {
                Ok(fetched) => return Ok(Fetched { repository: Some(repository), ..fetched }),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The highest `1.2.3` among a project's tags.
    fn latest(&self, project: &str) -> Result<String, FetchError> {
        let folder = self.folder(project)?;
        let unreadable =
            |e: git2::Error| FetchError::Unavailable(format!("git cannot read {project}: {}", e.message()));
        let tags = git2::Repository::open(folder).and_then(|r| r.tag_names(None)).map_err(unreadable)?;
        let version = |tag: &str| -> Option<[u64; 3]> {
            let mut parts = tag.strip_prefix('v').unwrap_or(tag).split('.').map(|p| p.parse().ok());
            let version = [parts.next()??, parts.next()??, parts.next()??];
            parts.next().is_none().then_some(version)
        };
        let names = tags.iter().filter_map(|t| t.ok().flatten());
        let best = names.filter_map(|t| version(t).map(|v| (v, t))).max();
        best.map(|(_, tag)| tag.to_string())
            .ok_or_else(|| FetchError::Unavailable(format!("{project} has no tag like 1.2.3 that ~latest could mean")))
    }

    fn remote(&self, url: &str) -> Result<Fetched, FetchError> {
        let fault = |what: String| FetchError::Unavailable(what);
        let parsed = reqwest::Url::parse(url).map_err(|e| fault(format!("{url:?} is not an address: {e}")))?;
        let host = parsed.host_str().unwrap_or_default();
        let with_port = parsed.port().map(|p| format!("{host}:{p}"));
        let listed = |h: &String| h == "*" || h == host || Some(h) == with_port.as_ref();
        if !matches!(parsed.scheme(), "http" | "https") || !self.config.include_hosts.iter().any(listed) {
            return Err(fault(format!(
                "{host:?} is not among `include_hosts` in [scheduler], the hosts that files may be included from"
            )));
        }
        let handle = Handle::try_current().map_err(|e| fault(e.to_string()))?;
        let left = self.until.saturating_duration_since(Instant::now());
        let get = tokio::time::timeout(left, get(parsed));
        handle.block_on(async { get.await.unwrap_or_else(|_| Err(fault(format!("no answer within {MAX_WAIT:?}")))) })
    }
}

async fn get(url: reqwest::Url) -> Result<Fetched, FetchError> {
    let cannot = |e: reqwest::Error| FetchError::Unavailable(format!("cannot get it: {}", e.without_url()));
    let _ = rustls::crypto::ring::default_provider().install_default();
    // A listed host may not send us on to one that is not.
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().map_err(cannot)?;
    let mut answer = client.get(url).send().await.map_err(cannot)?;
    match answer.status().as_u16() {
        200 => {}
        404 | 410 => return Err(FetchError::Missing),
        status => return Err(FetchError::Unavailable(format!("the server answered with status {status}"))),
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(cannot)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MAX_FILE_BYTES {
            bytes.truncate(MAX_FILE_BYTES + 1);
            break;
        }
    }
    Ok(Fetched { text: String::from_utf8_lossy(&bytes).into_owned(), repository: None })
}

impl Fetch for Elsewhere<'_> {
    fn fetch(&self, location: &Location) -> Result<Fetched, FetchError> {
        match location {
            Location::File { repository: None, .. } => self.tree.fetch(location),
            Location::File { repository: Some(repository), path } => {
                self.open(repository)?.fetch(&Location::File { repository: None, path: path.clone() })
            }
            Location::Remote { url } => self.remote(url),
            Location::Component { address } => self.component(address),
            Location::Template { name } => Err(FetchError::Unavailable(format!(
                "Slipway does not have GitLab's own template {name}; copy it here"
            ))),
        }
    }

    fn paths(&self, repository: Option<&Repository>) -> Result<Vec<String>, FetchError> {
        match repository {
            None => self.tree.paths(None),
            Some(repository) => self.open(repository)?.paths(None),
        }
    }

    fn changes(&self, compare_to: Option<&str>) -> Result<Option<Vec<String>>, FetchError> {
        self.tree.changes(compare_to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Project;
    use axum::routing::get;

    /// A repository with one commit of some files, tagged.
    fn repository(files: &[(&str, &str)], tags: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let repository = git2::Repository::init_bare(folder.path()).expect("a repository");
        let mut root = repository.treebuilder(None).expect("a builder");
        for (path, text) in files {
            let blob = repository.blob(text.as_bytes()).expect("a blob");
            match path.split_once('/') {
                None => {
                    root.insert(path, blob, 0o100_644).expect("an entry");
                }
                Some((folder, name)) => {
                    let mut below = repository.treebuilder(None).expect("a builder");
                    below.insert(name, blob, 0o100_644).expect("an entry");
                    let id = below.write().expect("a tree");
                    root.insert(folder, id, 0o040_000).expect("an entry");
                }
            }
        }
        let tree = repository.find_tree(root.write().expect("a tree")).expect("a tree");
        let who = git2::Signature::new("a", "a@example", &git2::Time::new(0, 0)).expect("a signature");
        let id = repository.commit(Some("refs/heads/main"), &who, &who, "m", &tree, &[]).expect("a commit");
        repository.set_head("refs/heads/main").expect("a head");
        let commit = repository.find_object(id, None).expect("the commit");
        for tag in tags {
            repository.tag_lightweight(tag, &commit, false).expect("a tag");
        }
        folder
    }

    fn config(path: &str, folder: &Path) -> Config {
        let repository = folder.display().to_string();
        Config { projects: vec![Project { path: path.into(), repository, ..Project::default() }], ..Config::default() }
    }

    #[test]
    fn other_projects_are_reached_when_registered() {
        let own = repository(&[("a.yml", "a")], &[]);
        let other = repository(&[("b.yml", "b"), ("templates/c.yml", "c")], &["1.9.0", "v1.10.0", "not-a-version"]);
        let config = config("team/other", other.path());
        let tree = GitTree::open(own.path(), "main", Base::Nothing).expect("the commit");
        let elsewhere = Elsewhere::new(&tree, &config, Path::new("/nowhere"));
        let of = |project: &str, reference: Option<&str>, path: &str| {
            let repository = Repository { project: project.into(), reference: reference.map(String::from) };
            elsewhere.fetch(&Location::File { repository: Some(repository), path: path.into() })
        };
        assert_eq!(of("team/other", None, "b.yml").expect("it is there").text, "b");
        assert_eq!(of("team/other", Some("1.9.0"), "b.yml").expect("it is there").text, "b");
        assert_eq!(of("team/other", None, "x.yml"), Err(FetchError::Missing));
        assert!(of("team/unknown", None, "b.yml").is_err());
        let component = |address: &str| elsewhere.fetch(&Location::Component { address: address.into() });
        let found = component("host/team/other/c@~latest").expect("it is there");
        assert_eq!(found.text, "c");
        assert_eq!(found.repository.and_then(|r| r.reference).as_deref(), Some("v1.10.0"));
        assert!(component("host/team/other/none@1.9.0").is_err());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn addresses_are_reached_on_listed_hosts_alone() {
        let app = axum::Router::new()
            .route("/a.yml", get(|| async { "a: {script: x}\n" }))
            .route("/moved.yml", get(|| async { axum::response::Redirect::permanent("http://elsewhere.example/") }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = tokio::spawn(async move { axum::serve(listener, app).await });
        let own = repository(&[("a.yml", "a")], &[]);
        let mut config = config("team/other", own.path());
        let answers = tokio::task::spawn_blocking(move || {
            let tree = GitTree::open(own.path(), "main", Base::Nothing).expect("the commit");
            let urls = ["a.yml", "none.yml", "moved.yml"].map(|p| format!("http://{address}/{p}"));
            let all = |config: &Config| {
                let elsewhere = Elsewhere::new(&tree, config, Path::new("/nowhere"));
                urls.clone().map(|url| elsewhere.fetch(&Location::Remote { url }))
            };
            let unlisted = all(&config);
            config.include_hosts = vec![address.to_string()];
            (unlisted, all(&config))
        });
        let (unlisted, listed) = answers.await.expect("the thread ends");
        assert!(unlisted.iter().all(Result::is_err), "{unlisted:?}");
        assert_eq!(listed[0].as_ref().expect("it is there").text, "a: {script: x}\n");
        assert_eq!(listed[1], Err(FetchError::Missing));
        assert!(listed[2].is_err(), "{:?}", listed[2]);
        server.abort();
    }
}
