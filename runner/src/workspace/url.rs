//! Addresses of repositories: which are fetched at all, and what is shown of them.

use super::error::WorkspaceError;
use base64::Engine as _;
use slipway_spec::job::Login;

/// A repository that may be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remote {
    /// Without user and password, but for the user of ssh.
    url: String,
    kind: Kind,
    login: Option<Login>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Http,
    Ssh,
    /// On this node.
    Local,
}

impl Remote {
    /// Reads an address. Only http, https, ssh and absolute paths are fetched: no `ext::` command, no `fd::`, no
    /// bundle, nothing that begins with a dash.
    pub(super) fn parse(text: &str) -> Result<Remote, WorkspaceError> {
        let refuse = |why| Err(WorkspaceError::Address { url: without_login(text).chars().take(200).collect(), why });
        if text.is_empty() || text.len() > 8192 || text.bytes().any(|b| b.is_ascii_control() || b == b' ') {
            return refuse("it is empty, too long, or has blanks or control characters");
        }
        if text.starts_with('/') {
            return Ok(Remote { url: text.to_owned(), kind: Kind::Local, login: None });
        }
        match text.split_once("://") {
            Some(("file", path)) if path.starts_with('/') => {
                Ok(Remote { url: path.to_owned(), kind: Kind::Local, login: None })
            }
            Some((scheme @ ("http" | "https"), rest)) => {
                let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
                let (login, host) = match authority.rsplit_once('@') {
                    Some((login, host)) => (Some(login), host),
                    None => (None, authority),
                };
                if host.is_empty() || host.starts_with('-') {
                    return refuse("it has no host");
                }
                let login = login.and_then(|login| {
                    let (username, password) = login.split_once(':').unwrap_or((login, ""));
                    (!password.is_empty()).then(|| Login { username: decoded(username), password: decoded(password) })
                });
                Ok(Remote { url: format!("{scheme}://{host}/{path}"), kind: Kind::Http, login })
            }
            Some(("ssh", rest)) => {
                let host = rest.split('/').next().unwrap_or("");
                let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
                if host.is_empty() || host.starts_with('-') || rest.starts_with('-') {
                    return refuse("it has no host, or one that ssh would take for an option");
                }
                Ok(Remote { url: text.to_owned(), kind: Kind::Ssh, login: None })
            }
            Some(_) => refuse("only http, https, ssh and absolute paths are fetched"),
            None => match text.split_once(':') {
                // git@host:path
                Some((host, path)) if !host.is_empty() && !host.contains('/') && !path.starts_with(':') => {
                    let name = host.rsplit_once('@').map_or(host, |(_, name)| name);
                    if host.starts_with('-') || name.is_empty() || name.starts_with('-') || path.is_empty() {
                        return refuse("it has no host or path, or one that ssh would take for an option");
                    }
                    Ok(Remote { url: text.to_owned(), kind: Kind::Ssh, login: None })
                }
                _ => refuse("only http, https, ssh and absolute paths are fetched"),
            },
        }
    }

    /// With this login where there is one, else with what the address had.
    pub(super) fn with_login(mut self, login: Option<Login>) -> Remote {
        if login.is_some() {
            self.login = login;
        }
        self
    }

    /// The address, for the command line, messages and `remote.origin.url`: it never holds a password.
    pub(super) fn shown(&self) -> String {
        self.url.clone()
    }

    pub(super) fn is_local(&self) -> bool {
        self.kind == Kind::Local
    }

    /// What git may speak with it (`GIT_ALLOW_PROTOCOL`).
    pub(super) fn protocols(&self) -> &'static str {
        match self.kind {
            Kind::Http => "http:https",
            Kind::Ssh => "ssh",
            Kind::Local => "file",
        }
    }

    /// `scheme://host[:port]/` of an HTTP address.
    fn origin(&self) -> Option<&str> {
        let host = self.url.find("://")? + 3;
        let end = self.url[host..].find('/').map_or(self.url.len(), |at| host + at + 1);
        (self.kind == Kind::Http).then(|| &self.url[..end])
    }

    /// Key and value of the git setting that carries the login: for requests to this host only, and in the
    /// environment of one process only.
    pub(super) fn login_setting(&self) -> Option<(String, String)> {
        let login = self.login.as_ref()?;
        let word = base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", login.username, login.password));
        Some((format!("http.{}.extraHeader", self.origin()?), format!("Authorization: Basic {word}")))
    }

    /// The repository that a submodule's address means in this one, and whether it gets this one's login.
    pub(super) fn submodule(&self, address: &str, force_https: bool) -> Result<Remote, WorkspaceError> {
        let address = if address.starts_with("./") || address.starts_with("../") {
            relative(&self.url, address).ok_or_else(|| WorkspaceError::Address {
                url: address.chars().take(200).collect(),
                why: "it leads above the host of the repository that it is a submodule of",
            })?
        } else {
            address.to_owned()
        };
        let mut remote = Remote::parse(&address)?;
        if force_https && remote.kind == Kind::Ssh {
            remote = Remote::parse(&https(&remote.url))?;
        }
        // Never to another host, another port, or by plain HTTP when the project came by HTTPS.
        if remote.kind == Kind::Http && remote.origin() == self.origin() {
            remote.login = self.login.clone();
        }
        Ok(remote)
    }
}

/// An address for messages, from a text that may be anything.
fn without_login(text: &str) -> String {
    match text.split_once("://") {
        Some((scheme, rest)) => {
            let authority = rest.split('/').next().unwrap_or("");
            match authority.rsplit_once('@') {
                Some((login, _)) => format!("{scheme}://{}", &rest[login.len() + 1..]),
                None => text.to_owned(),
            }
        }
        None => text.to_owned(),
    }
}

fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// `relative` seen from `base`, as `git submodule` does it: every `../` takes one component off.
fn relative(base: &str, relative: &str) -> Option<String> {
    let floor = base.find("://").map_or(0, |at| at + 3);
    let mut base = base.trim_end_matches('/').to_owned();
    let mut rest = relative;
    loop {
        if let Some(after) = rest.strip_prefix("./") {
            rest = after;
        } else if let Some(after) = rest.strip_prefix("../") {
            rest = after;
            let cut = base[floor..].rfind(['/', ':'])? + floor;
            // The host itself stays.
            if floor > 0 && !base[floor..cut].contains('/') && base[floor..].matches('/').count() < 1 {
                return None;
            }
            base.truncate(cut);
        } else if rest.split('/').any(|part| part == "..") {
            return None;
        } else {
            return Some(format!("{base}/{rest}"));
        }
    }
}

/// The HTTPS address of an ssh one.
fn https(ssh: &str) -> String {
    let rest = ssh.strip_prefix("ssh://").map_or_else(
        || ssh.replacen(':', "/", 1),
        |rest| {
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
            format!("{host}/{path}")
        },
    );
    let rest = match rest.split_once('/') {
        Some((authority, path)) => {
            format!("{}/{path}", authority.rsplit_once('@').map_or(authority, |(_, host)| host))
        }
        None => rest,
    };
    format!("https://{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_of_a_forbidden_kind_is_refused() {
        for text in [
            "ext::sh -c id",
            "ext::sh",
            "fd::17",
            "-oProxyCommand=id",
            "ssh://-oProxyCommand=id/x",
            "git://h/x",
            "ftp://h/x",
            "relative/path",
            "",
            "https:///x",
            "git@-oProxyCommand=id:x",
            "transport::address",
        ] {
            assert!(Remote::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn password_in_an_address_becomes_a_login_and_is_never_shown() {
        let remote = Remote::parse("https://gitlab-ci-token:s%40cret@git.example/a/b.git").expect("an address");
        assert_eq!(remote.shown(), "https://git.example/a/b.git");
        let (key, value) = remote.login_setting().expect("a login");
        assert_eq!(key, "http.https://git.example/.extraHeader");
        assert_eq!(value, "Authorization: Basic Z2l0bGFiLWNpLXRva2VuOnNAY3JldA==");
        let error = Remote::parse("gopher://me:secret@host/x").expect_err("a scheme that is not fetched");
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn submodule_address_is_resolved_and_gets_the_login_on_the_same_host_only() {
        let login = Login { username: "u".into(), password: "p".into() };
        let base = Remote::parse("https://h.example:8443/group/app.git").expect("base").with_login(Some(login));
        let sibling = base.submodule("../lib.git", false).expect("sibling");
        assert_eq!(sibling.shown(), "https://h.example:8443/group/lib.git");
        assert!(sibling.login_setting().is_some());
        for (address, shown) in [
            ("https://other.example/lib.git", "https://other.example/lib.git"),
            ("http://h.example:8443/group/lib.git", "http://h.example:8443/group/lib.git"),
            ("https://h.example/group/lib.git", "https://h.example/group/lib.git"),
        ] {
            let module = base.submodule(address, false).expect(address);
            assert_eq!(module.shown(), shown);
            assert!(module.login_setting().is_none(), "{address}");
        }
        let forced = base.submodule("git@h.example:group/lib.git", true).expect("forced");
        assert_eq!(forced.shown(), "https://h.example/group/lib.git");
        let forced = base.submodule("ssh://git@h.example:22/group/lib.git", true).expect("forced");
        assert_eq!(forced.shown(), "https://h.example/group/lib.git");
        assert!(base.submodule("../../../x.git", false).is_err(), "above the host");
        assert!(base.submodule("../a/../../x.git", false).is_err(), "hidden steps up");
        assert!(base.submodule("ext::sh -c id", false).is_err());
    }
}
