//! Which login a registry gets: the first source that has it wins, and within a source the longest path. Pure.

use base64::Engine as _;
use serde::Deserialize;
use slipway_spec::job::{Credential, Login};
use std::collections::BTreeMap;

/// A source of logins.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// For people.
    pub(crate) name: &'static str,
    logins: BTreeMap<String, Login>,
    helpers: BTreeMap<String, String>,
    store: Option<String>,
}

/// What a source says of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// This login.
    Login(Login),
    /// Ask `docker-credential-<name>` for the host.
    Helper { program: String, host: String },
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
    #[serde(default, rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(default, rename = "credsStore")]
    store: Option<String>,
}

#[derive(Deserialize)]
struct Auth {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
}

impl Source {
    /// Of the text of a config.json.
    ///
    /// # Errors
    /// With a reason for people; the text itself, which holds passwords, is not in it.
    pub(crate) fn docker_config(name: &'static str, text: &str) -> Result<Source, String> {
        let config: DockerConfig = serde_json::from_str(text)
            .map_err(|e| format!("{name} is not Docker's config.json (line {})", e.line()))?;
        let mut logins = BTreeMap::new();
        for (host, auth) in config.auths {
            let login = match auth {
                Auth { username: Some(username), password: Some(password), .. } => Some(Login { username, password }),
                Auth { auth: Some(auth), .. } => decode(&auth),
                Auth { .. } => None,
            };
            if let Some(login) = login {
                logins.insert(normal(&host), login);
            }
        }
        let helpers = config.helpers.into_iter().map(|(host, program)| (normal(&host), program)).collect();
        Ok(Source { name, logins, helpers, store: config.store.filter(|s| !s.is_empty()) })
    }

    /// Of a job's credentials.
    pub(crate) fn job(credentials: &[Credential]) -> Source {
        let logins = credentials.iter().map(|c| (normal(&c.registry), c.login.clone())).collect();
        Source { name: "job payload", logins, helpers: BTreeMap::new(), store: None }
    }

    /// What it says of an image.
    pub(crate) fn find(&self, image: &str) -> Option<Found> {
        let place = place(image);
        let mut prefix = place.as_str();
        loop {
            if let Some(program) = self.helpers.get(prefix) {
                return Some(Found::Helper { program: program.clone(), host: prefix.to_owned() });
            }
            if let Some(login) = self.logins.get(prefix) {
                return Some(Found::Login(login.clone()));
            }
            match prefix.rfind('/') {
                Some(at) => prefix = &prefix[..at],
                None => break,
            }
        }
        let host = host(image);
        self.store.as_ref().map(|program| Found::Helper { program: program.clone(), host })
    }
}

fn decode(auth: &str) -> Option<Login> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(auth.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (username, password) = text.split_once(':')?;
    Some(Login { username: username.to_owned(), password: password.trim_end_matches('\0').to_owned() })
}

/// `host/group/project` of an image, without tag and digest; Docker Hub's is `docker.io/…`.
fn place(image: &str) -> String {
    let name = image.split('@').next().unwrap_or(image);
    let name = match name.rfind(':') {
        Some(at) if !name[at..].contains('/') => &name[..at],
        _ => name,
    };
    let host = host(image);
    match name.split_once('/') {
        Some((first, rest)) if is_host(first) => format!("{}/{rest}", normal(first)),
        _ => format!("{host}/{name}"),
    }
}

/// The registry of an image, as credentials name it.
pub(crate) fn host(image: &str) -> String {
    match image.split_once('/') {
        Some((first, _)) if is_host(first) => normal(first),
        _ => "docker.io".to_owned(),
    }
}

fn is_host(part: &str) -> bool {
    part.contains('.') || part.contains(':') || part == "localhost"
}

fn normal(host: &str) -> String {
    let host = host.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let host = host.strip_suffix("/v1").or_else(|| host.strip_suffix("/v2")).unwrap_or(host);
    match host {
        "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" | "docker.io" => "docker.io".to_owned(),
        other => other.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Source {
        Source::docker_config("DOCKER_AUTH_CONFIG", text).unwrap()
    }

    fn user(source: &Source, image: &str) -> Option<String> {
        source.find(image).map(|found| match found {
            Found::Login(login) => login.username,
            Found::Helper { program, host } => format!("{program}@{host}"),
        })
    }

    #[test]
    fn credentials_longest_path_wins() {
        let source = config(
            r#"{"auths":{"r.example:5000":{"username":"host","password":"p"},
                "r.example:5000/group":{"username":"group","password":"p"}}}"#,
        );
        assert_eq!(user(&source, "r.example:5000/group/app:1"), Some("group".into()));
        assert_eq!(user(&source, "r.example:5000/other/app@sha256:00"), Some("host".into()));
        assert_eq!(user(&source, "r.example:5000/groups/app"), Some("host".into()));
        assert_eq!(user(&source, "elsewhere.example/group/app"), None);
    }

    #[test]
    fn credentials_of_docker_hub_have_many_names() {
        for name in ["https://index.docker.io/v1/", "index.docker.io", "docker.io"] {
            let source = config(&format!(r#"{{"auths":{{"{name}":{{"auth":"aGVyOnNlOmNyZXQ="}}}}}}"#));
            let Some(Found::Login(login)) = source.find("alpine:3") else { panic!("{name}") };
            assert_eq!((login.username.as_str(), login.password.as_str()), ("her", "se:cret"));
        }
    }

    #[test]
    fn credentials_helpers_are_named() {
        let source = config(r#"{"credHelpers":{"r.example":"ecr-login"},"credsStore":"pass"}"#);
        assert_eq!(user(&source, "r.example/a"), Some("ecr-login@r.example".into()));
        assert_eq!(user(&source, "alpine"), Some("pass@docker.io".into()));
    }

    #[test]
    fn credentials_fault_does_not_tell_the_text() {
        let fault = Source::docker_config("DOCKER_AUTH_CONFIG", r#"{"auths":"hunter2"}"#).unwrap_err();
        assert!(!fault.contains("hunter2"), "{fault}");
    }
}
