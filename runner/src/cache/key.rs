//! Keys, and what a job's cache means once variables are expanded (section 8 of GitLab's runner contract).

use crate::workspace::TrackedPaths;
use sha2::{Digest, Sha256};
use slipway_spec::glob::Doublestar;
use slipway_spec::job::{CacheSpec, When};

/// A cache with everything expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// Its key.
    pub key: String,
    /// Tried in order when the key has nothing.
    pub fallback_keys: Vec<String>,
    /// Doublestar patterns.
    pub paths: Vec<String>,
    /// Also what git does not know.
    pub untracked: bool,
    /// What is done.
    pub policy: Policy,
    /// On what outcome of the script it is kept.
    pub when: When,
}

/// `cache:policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Brought in, and kept.
    PullPush,
    /// Only brought in.
    Pull,
    /// Only kept.
    Push,
}

impl Policy {
    fn parse(text: &str) -> Option<Policy> {
        match text {
            "" | "pull-push" => Some(Policy::PullPush),
            "pull" => Some(Policy::Pull),
            "push" => Some(Policy::Push),
            _ => None,
        }
    }
}

/// What keys are made of, beside the cache's own text.
pub struct Facts<'a> {
    /// The job's name.
    pub job: &'a str,
    /// The ref's name.
    pub ref_name: &'a str,
    /// The cache's place in the job's list, from 0.
    pub index: usize,
    /// Expands variables in a text.
    pub expand: &'a dyn Fn(&str) -> String,
    /// The commit's files, for `key:files`.
    pub tracked: &'a TrackedPaths,
}

impl Cache {
    /// What `spec` means for a job.
    ///
    /// # Errors
    /// A line for the trace that says why there is no cache.
    pub fn resolve(spec: &CacheSpec, facts: &Facts<'_>) -> Result<Cache, String> {
        let expand = facts.expand;
        let policy = expand(&spec.policy);
        let policy = Policy::parse(policy.trim())
            .ok_or_else(|| format!("WARNING: cache: policy {policy:?} is not pull-push, pull or push; no cache"))?;
        let raw = if spec.key_files.is_empty() {
            let key = expand(&spec.key);
            if key.trim().is_empty() { format!("{}/{}", facts.job, facts.ref_name) } else { key }
        } else {
            key_of_files(spec, facts)
        };
        let key =
            sanitise(&raw).ok_or_else(|| format!("WARNING: cache: nothing is left of the key {raw:?}; no cache"))?;
        let mut fallback_keys: Vec<String> =
            spec.fallback_keys.iter().filter_map(|key| sanitise(&expand(key))).collect();
        let variable = expand("$CACHE_FALLBACK_KEY");
        // GitLab's own suffix: a variable that anybody can set must not reach a protected cache.
        if !variable.trim_end().ends_with("-protected") {
            fallback_keys.extend(sanitise(&variable));
        }
        fallback_keys.retain(|fallback| *fallback != key);
        Ok(Cache {
            key,
            fallback_keys,
            paths: spec.paths.iter().map(|path| expand(path)).collect(),
            untracked: spec.untracked,
            policy,
            when: spec.when,
        })
    }
}

/// Prefix and a digest of the contents of the files at the commit; `default` for the digest when none is there.
///
/// GitLab's server makes these keys with SHA-1 for its jobs; only their being equal matters.
fn key_of_files(spec: &CacheSpec, facts: &Facts<'_>) -> String {
    let mut ids: Vec<String> = Vec::new();
    let mut names: Vec<String> = Vec::new();
    for text in &spec.key_files {
        let path = (facts.expand)(text);
        let base = path.rsplit('/').next().unwrap_or(&path);
        names.push(base.split('.').find(|part| !part.is_empty()).unwrap_or(base).to_owned());
        match facts.tracked.blob(path.trim_start_matches("./").as_bytes()) {
            Some(id) => ids.push(id),
            None => {
                if let Ok(glob) = Doublestar::new(&path) {
                    ids.extend(facts.tracked.iter().filter(|(path, _)| glob.matches(path)).map(|(_, id)| id));
                }
            }
        }
    }
    ids.sort();
    ids.dedup();
    let digest = if ids.is_empty() {
        "default".to_owned()
    } else {
        let digest = Sha256::digest(ids.join("-").as_bytes());
        digest.iter().take(20).map(|byte| format!("{byte:02x}")).collect()
    };
    let prefix = match &spec.key_prefix {
        Some(prefix) => (facts.expand)(prefix),
        None => format!("{}_{}", facts.index, names.join("_")),
    };
    format!("{prefix}-{digest}")
}

/// A key as GitLab's runner cleans it: no way up, no blanks at the ends of its last parts; `None` when nothing is left.
#[must_use]
pub fn sanitise(key: &str) -> Option<String> {
    let mut text = String::with_capacity(key.len());
    let mut rest = key;
    while let Some(c) = rest.chars().next() {
        // Decoded once, not again.
        if let Some(code) = rest.get(..3).filter(|code| code.starts_with('%')) {
            let decoded = match code.to_ascii_lowercase().as_str() {
                "%2f" => Some('/'),
                "%2e" => Some('.'),
                _ => None,
            };
            if let Some(decoded) = decoded {
                text.push(decoded);
                rest = &rest[3..];
                continue;
            }
        }
        text.push(if c == '\\' { '/' } else { c });
        rest = &rest[c.len_utf8()..];
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    while let Some(last) = parts.pop() {
        let trimmed = last.trim_end();
        if !trimmed.is_empty() && trimmed != "." && trimmed != ".." {
            parts.push(trimmed);
            break;
        }
    }
    let key: String = parts.join("/").chars().filter(|c| !c.is_control()).take(1024).collect();
    (!key.is_empty()).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_cleaned_as_the_runner_does() {
        for (key, clean) in [
            ("a/b", Some("a/b")),
            ("../../x", Some("x")),
            ("%2e%2E%2f..%2Fetc", Some("etc")),
            ("%252e%252e/x", Some("%252e%252e/x")),
            ("a\\..\\b", Some("b")),
            ("a/b  ", Some("a/b")),
            ("a/  ", Some("a")),
            ("..", None),
            ("", None),
            ("/", None),
            (" ", None),
        ] {
            assert_eq!(sanitise(key).as_deref(), clean, "{key:?}");
        }
    }

    #[test]
    fn policy_and_fallbacks_are_expanded() {
        let expand = |text: &str| {
            text.replace("$POLICY", "pull").replace("$CACHE_FALLBACK_KEY", "main-protected").replace("$REF", "topic")
        };
        let tracked = TrackedPaths::default();
        let facts = Facts { job: "build", ref_name: "topic", index: 0, expand: &expand, tracked: &tracked };
        let spec = CacheSpec {
            key: "$REF".into(),
            fallback_keys: vec!["main".into(), "$REF".into()],
            policy: "$POLICY".into(),
            ..CacheSpec::default()
        };
        let cache = Cache::resolve(&spec, &facts).expect("a cache");
        assert_eq!((cache.key.as_str(), cache.policy), ("topic", Policy::Pull));
        assert_eq!(cache.fallback_keys, ["main"], "the key itself and a protected key from a variable are left out");
        let named = Cache::resolve(&CacheSpec::default(), &facts).expect("a cache");
        assert_eq!(named.key, "build/topic");
        assert!(Cache::resolve(&CacheSpec { policy: "shove".into(), ..CacheSpec::default() }, &facts).is_err());
        let files = CacheSpec { key_files: vec!["nope.lock".into()], key_prefix: Some("p".into()), ..spec };
        assert_eq!(Cache::resolve(&files, &facts).expect("a cache").key, "p-default");
    }
}
