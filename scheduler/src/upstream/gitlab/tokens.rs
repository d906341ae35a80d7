//! The runner's token, and its successor before it ends.
//!
//! A token that GitLab has given an end is reset at three quarters of its life. The successor is on disk, beside the
//! spool, before it is used: the old one no longer works. The configuration is not written; the file says of which
//! configured token it is the successor, so a token that a person puts into the configuration always wins.

use super::client::Client;
use super::config::{Secret, TokenError, UpstreamConfig};
use super::register::{self, RegisterError, Registration};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

/// The file's name in the upstream's spool folder.
const FILE: &str = "token.json";
/// Of its life a token is used so much.
const SHARE: f64 = 0.75;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Kept {
    token: Secret,
    /// SHA-256 of the configured token, hex.
    of: String,
    obtained_at: Timestamp,
    #[serde(default)]
    expires_at: Option<Timestamp>,
}

/// The token in use.
#[derive(Debug)]
pub struct Tokens {
    path: PathBuf,
    now: RwLock<Kept>,
}

/// Why there is no successor.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// The server.
    #[error("the runner token could not be renewed: {0}")]
    Server(#[from] RegisterError),
    /// Our disk, before the server was asked.
    #[error("the runner token is not renewed because {path} could not be written: {source}")]
    Disk {
        /// Where it is kept.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Our disk, after: the token works until the next start only.
    #[error(
        "the new runner token could not be written to {path}: {source}; make a new one in GitLab before the next start"
    )]
    Lost {
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Tokens {
    /// The configured token, or its successor kept in `folder`.
    ///
    /// # Errors
    /// There is no configured token.
    pub fn load(config: &UpstreamConfig, folder: &Path, now: Timestamp) -> Result<Self, TokenError> {
        let configured = config.configured_token()?;
        let path = folder.join(FILE);
        let of = fingerprint(&configured);
        let kept = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok());
        let kept = kept.filter(|kept| kept.of == of).unwrap_or(Kept {
            token: Secret(configured),
            of,
            obtained_at: now,
            expires_at: None,
        });
        Ok(Tokens { path, now: RwLock::new(kept) })
    }

    /// The token.
    #[must_use]
    pub fn get(&self) -> String {
        self.read().token.0
    }

    fn read(&self) -> Kept {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, kept: Kept) -> std::io::Result<()> {
        let written = super::spool::write_whole(&self.path, &serde_json::to_vec(&kept)?);
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = kept;
        written
    }

    /// Notes what the server said of the token's end.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn note(&self, registration: &Registration) -> std::io::Result<()> {
        let mut kept = self.read();
        if kept.expires_at == registration.token_expires_at {
            return Ok(());
        }
        kept.expires_at = registration.token_expires_at;
        self.keep(kept)
    }

    /// When the token is to be renewed; `None` for one without an end.
    #[must_use]
    pub fn renew_at(&self) -> Option<Timestamp> {
        let kept = self.read();
        let life = kept.expires_at?.duration_since(kept.obtained_at);
        kept.obtained_at.checked_add(SignedDuration::from_secs_f64(life.as_secs_f64() * SHARE)).ok()
    }

    /// Renews the token: asks for a successor, keeps it, uses it.
    ///
    /// # Errors
    /// The server refuses, or the successor cannot be kept.
    pub async fn renew(&self, client: &Client, now: Timestamp) -> Result<(), RotateError> {
        let mut kept = self.read();
        // Whether the disk takes it is found out before the old token is given away.
        let disk = |source| RotateError::Disk { path: self.path.clone(), source };
        super::spool::write_whole(&self.path, &serde_json::to_vec(&kept).map_err(|e| disk(e.into()))?).map_err(disk)?;
        let registration = register::reset_token(client, &kept.token.0).await?;
        kept.token = Secret(registration.token);
        kept.obtained_at = now;
        kept.expires_at = registration.token_expires_at;
        self.keep(kept).map_err(|source| RotateError::Lost { path: self.path.clone(), source })
    }
}

fn fingerprint(token: &str) -> String {
    Sha256::digest(token.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn token_is_renewed_at_three_quarters_of_its_life_and_never_without_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let config = UpstreamConfig::new("g", "http://h", "glrt-1");
        let tokens = Tokens::load(&config, dir.path(), at("2026-01-01T00:00:00Z")).unwrap();
        assert_eq!(tokens.renew_at(), None);
        let expires = Some(at("2026-01-05T00:00:00Z"));
        tokens.note(&Registration { token_expires_at: expires, ..Registration::default() }).unwrap();
        assert_eq!(tokens.renew_at(), Some(at("2026-01-04T00:00:00Z")));
        let again = Tokens::load(&config, dir.path(), at("2026-01-03T00:00:00Z")).unwrap();
        assert_eq!(again.renew_at(), Some(at("2026-01-04T00:00:00Z")), "the life began when it was obtained");
    }

    #[test]
    fn token_put_into_the_configuration_wins_over_a_kept_successor() {
        let dir = tempfile::tempdir().unwrap();
        let now = at("2026-01-01T00:00:00Z");
        let tokens = Tokens::load(&UpstreamConfig::new("g", "http://h", "glrt-1"), dir.path(), now).unwrap();
        let mut kept = tokens.read();
        kept.token = Secret("glrt-2".into());
        tokens.keep(kept).unwrap();
        let load =
            |token: &str| Tokens::load(&UpstreamConfig::new("g", "http://h", token), dir.path(), now).unwrap().get();
        assert_eq!(load("glrt-1"), "glrt-2");
        assert_eq!(load("glrt-3"), "glrt-3");
    }
}
