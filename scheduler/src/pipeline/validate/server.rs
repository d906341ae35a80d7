//! Keywords that only a GitLab server, or its step runner, acts upon: checked so that a typing mistake in them shows.

use super::Checker;
use crate::pipeline::tree::{Map, Node, Value};

const PROVIDERS: [&str; 5] =
    ["vault", "gcp_secret_manager", "azure_key_vault", "aws_secrets_manager", "gitlab_secrets_manager"];
const LINK_TYPES: [&str; 4] = ["runbook", "package", "image", "other"];

/// (keys it may have, keys it must have) of a secret provider's mapping.
fn provider_keys(provider: &str) -> (&'static [&'static str], &'static [&'static str]) {
    match provider {
        "vault" => (&["engine", "path", "field"], &["engine", "path", "field"]),
        "gcp_secret_manager" | "azure_key_vault" => (&["name", "version"], &["name"]),
        "aws_secrets_manager" => (
            &["secret_id", "version_id", "version_stage", "region", "role_arn", "role_session_name", "field"],
            &["secret_id"],
        ),
        _ => (&["name", "source"], &["name"]),
    }
}

impl Checker<'_> {
    pub(super) fn server_keywords(&mut self, name: &str, map: &Map, path: &str) {
        if let Some(node) = self.given(map, "secrets") {
            self.secrets(node, &format!("{path}:secrets"));
        }
        if let Some(node) = self.given(map, "release") {
            self.release(node, &format!("{path}:release"));
        }
        if let Some(node) = self.given(map, "pages") {
            self.pages(node, &format!("{path}:pages"));
        }
        if let Some(node) = self.given(map, "publish") {
            if name != "pages" {
                self.fail(node.span, path, "publish can only be used within a `pages` job");
            } else if node.as_str().is_none() {
                self.wrong(node, path, "publish should be a string");
            }
        }
        if let Some(node) = self.given(map, "dast_configuration") {
            let path = format!("{path}:dast_configuration");
            match node.as_map() {
                Some(options) => {
                    self.keys(options, "dast_configuration", &path);
                    self.string(options, "site_profile", &path, "site profile");
                    self.string(options, "scanner_profile", &path, "scanner profile");
                }
                None => self.wrong(node, &path, "config should be a hash"),
            }
        }
        if let Some(node) = self.given(map, "inputs") {
            self.inputs(node, &format!("{path}:inputs"), true);
        }
        if let Some(node) = self.given(map, "run") {
            self.run(node, &format!("{path}:run"));
        }
    }

    pub(super) fn id_tokens(&mut self, node: &Node, path: &str) {
        let Some(map) = node.as_map() else {
            self.wrong(node, path, "config should be a hash");
            return;
        };
        for (name, entry) in map.iter() {
            let path = format!("{path}:{name}");
            let Some(token) = entry.value.as_map() else {
                self.wrong(&entry.value, &path, "config should be a hash");
                continue;
            };
            self.keys(token, "id_tokens", &path);
            let fits = |n: &Node| match &n.value {
                Value::Seq(items) => !items.is_empty() && items.iter().all(|i| i.as_str().is_some()),
                _ => n.as_str().is_some(),
            };
            match token.get("aud") {
                None => {
                    self.fail(entry.value.span, &path, "config missing required keys: aud");
                }
                Some(aud) if !fits(aud) => {
                    self.wrong(aud, &path, "aud should be an array of strings or a string");
                }
                Some(_) => {}
            }
        }
    }

    fn secrets(&mut self, node: &Node, path: &str) {
        let Some(map) = node.as_map() else {
            self.wrong(node, path, "config should be a hash");
            return;
        };
        for (name, entry) in map.iter() {
            let path = format!("{path}:{name}");
            let Some(secret) = entry.value.as_map() else {
                self.wrong(&entry.value, &path, "config should be a hash");
                continue;
            };
            self.keys(secret, "secrets", &path);
            self.boolean(secret, "file", &path, "file");
            self.string(secret, "token", &path, "token");
            let used: Vec<&str> = PROVIDERS.into_iter().filter(|p| secret.contains(p)).collect();
            match used[..] {
                [provider] => {
                    if let Some(node) = secret.get(provider) {
                        self.provider(provider, node, &format!("{path}:{provider}"));
                    }
                }
                _ => {
                    let text = format!("config must use exactly one of these keys: {}", PROVIDERS.join(", "));
                    self.fail(entry.value.span, &path, text);
                }
            }
        }
    }

    fn provider(&mut self, provider: &str, node: &Node, path: &str) {
        let short_form = matches!(provider, "vault" | "aws_secrets_manager");
        if node.as_str().is_some() && short_form {
            return;
        }
        let Some(map) = node.as_map() else {
            let forms = if short_form { "a hash or a string" } else { "a hash" };
            self.wrong(node, path, format!("config should be {forms}"));
            return;
        };
        let (allowed, required) = provider_keys(provider);
        self.only(map, node, path, allowed, required);
        for key in required.iter().filter(|k| **k != "engine") {
            if let Some(value) = map.get(key).filter(|n| n.as_str().is_none()) {
                self.wrong(value, path, format!("{} should be a string", key.replace('_', " ")));
            }
        }
        if let Some(engine) = map.get("engine") {
            match engine.as_map() {
                Some(keys) => {
                    self.only(keys, engine, &format!("{path}:engine"), &["name", "path"], &["name", "path"]);
                }
                None => self.wrong(engine, path, "engine should be a hash"),
            }
        }
    }

    /// A mapping with a fixed set of keys that no table is worth having for.
    fn only(&mut self, map: &Map, node: &Node, path: &str, allowed: &[&str], required: &[&str]) {
        let unknown: Vec<&str> = map.keys().map(|k| &**k).filter(|k| !allowed.contains(k)).collect();
        if let Some(first) = unknown.first() {
            let span = map.entry(first).map_or(node.span, |e| e.key_span);
            let hint = format!("it may have: {}", allowed.join(", "));
            self.fail(span, path, format!("config contains unknown keys: {}", unknown.join(", "))).hint(hint);
        }
        let missing: Vec<&str> = required.iter().copied().filter(|k| !map.contains(k)).collect();
        if !missing.is_empty() {
            self.fail(node.span, path, format!("config missing required keys: {}", missing.join(", ")));
        }
    }

    fn release(&mut self, node: &Node, path: &str) {
        let Some(map) = node.as_map() else {
            self.wrong(node, path, "config should be a hash");
            return;
        };
        self.keys(map, "release", path);
        for key in ["tag_name", "description"] {
            if map.present(key).is_none() {
                self.fail(node.span, path, format!("{} can't be blank", key.replace('_', " ")));
            }
        }
        for key in ["tag_name", "description", "tag_message", "name", "ref", "released_at"] {
            self.string(map, key, path, &key.replace('_', " "));
        }
        self.strings(map, "milestones", path, "milestones");
        let Some(assets) = self.given(map, "assets") else { return };
        let path = format!("{path}:assets");
        let Some(map) = assets.as_map() else {
            self.wrong(assets, &path, "config should be a hash");
            return;
        };
        self.keys(map, "release:assets", &path);
        let links = map.get("links").and_then(Node::as_seq).filter(|l| !l.is_empty());
        let Some(links) = links else {
            self.fail(assets.span, &path, "links can't be blank").hint("a list of {name, url}");
            return;
        };
        let path = format!("{path}:links");
        for link in links {
            let Some(map) = link.as_map() else {
                self.wrong(link, &path, "config should be an array of hashes");
                continue;
            };
            self.keys(map, "release:assets:links", &path);
            for key in ["name", "url"] {
                if map.present(key).is_none() {
                    self.fail(link.span, &path, format!("{key} can't be blank"));
                }
                self.string(map, key, &path, key);
            }
            self.one_of(map, "link_type", &path, &LINK_TYPES, "link type");
        }
    }

    fn pages(&mut self, node: &Node, path: &str) {
        match &node.value {
            Value::Bool(_) => {}
            Value::Map(map) => {
                self.keys(map, "pages", path);
                self.string(map, "publish", path, "publish");
                self.string(map, "path_prefix", path, "path prefix");
                if let Some(node) = self.given(map, "expire_in") {
                    self.duration(node, path, "expire in", &["never"]);
                }
            }
            _ => self.wrong(node, path, "config should be a hash or a boolean value"),
        }
    }

    fn run(&mut self, node: &Node, path: &str) {
        let Some(items) = node.as_seq() else {
            self.wrong(node, path, "config should be an array");
            return;
        };
        for item in items {
            let Some(map) = item.as_map() else {
                self.wrong(item, path, "config should be an array of hashes");
                continue;
            };
            self.step(map, item, path);
        }
    }

    fn step(&mut self, map: &Map, node: &Node, path: &str) {
        let script = map.contains("script");
        let allowed: &[&str] =
            if script { &["name", "script", "env"] } else { &["name", "step", "func", "env", "inputs"] };
        self.only(map, node, path, allowed, &["name"]);
        let word = |s: &str| {
            !s.is_empty()
                && !s.starts_with(|c: char| c.is_ascii_digit())
                && s.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        if let Some(name) = map.get("name").filter(|n| !n.as_str().is_some_and(word)) {
            self.wrong(name, path, "name should be a word of letters, digits and '_'");
        }
        if ["step", "func", "script"].iter().filter(|k| map.contains(k)).count() != 1 {
            self.fail(node.span, path, "config must use exactly one of these keys: step, func, script");
        }
        if let Some(script) = map.get("script").filter(|n| n.as_str().is_none_or(str::is_empty)) {
            self.wrong(script, path, "script should be a string");
        }
        for key in ["env", "inputs"] {
            if let Some(value) = map.get(key).filter(|n| n.as_map().is_none()) {
                self.wrong(value, path, format!("{key} should be a hash"));
            }
        }
        for key in ["step", "func"] {
            let Some(reference) = map.get(key) else { continue };
            match &reference.value {
                Value::Str { .. } => {}
                Value::Map(kinds) => {
                    self.only(kinds, reference, path, &["git", "oci"], &[]);
                    if let Some(git) = kinds.get("git") {
                        let keys = git.as_map().cloned().unwrap_or_default();
                        self.only(&keys, git, path, &["url", "rev", "dir", "file"], &["url", "rev"]);
                    }
                    if let Some(oci) = kinds.get("oci") {
                        let keys = oci.as_map().cloned().unwrap_or_default();
                        let allowed = ["registry", "repository", "tag", "dir", "file"];
                        self.only(&keys, oci, path, &allowed, &["registry", "repository", "tag"]);
                    }
                }
                _ => self.wrong(reference, path, format!("{key} should be a string or a hash")),
            }
        }
    }
}
