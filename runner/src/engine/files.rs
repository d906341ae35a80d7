//! The files an engine finds in its `/etc`, the same behind either wall.

use super::error::{EngineError, Tried};
use super::shape::{CONTAINERD_TOML, DAEMON_JSON};
use super::tls::Keys;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Writes `/etc/slipway` of an engine to `folder`: process 1, configuration, keys, authorities.
pub(super) fn write(folder: &Path, keys: &Keys, ca_file: Option<&Path>) -> Result<(), EngineError> {
    make_dir(folder, 0o755)?;
    let mut texts = vec![
        ("init", 0o755, include_str!("init.sh")),
        ("daemon.json", 0o644, DAEMON_JSON),
        ("containerd.toml", 0o644, CONTAINERD_TOML),
        ("tls/ca.pem", 0o644, &keys.ca),
        ("tls/cert.pem", 0o644, &keys.server.0),
        ("tls/key.pem", 0o600, &keys.server.1),
    ];
    let authorities = ca_file.map(authorities).transpose()?;
    if let Some(text) = &authorities {
        texts.push(("ca-certificates.crt", 0o644, text));
    }
    make_dir(&folder.join("tls"), 0o700)?;
    for (name, mode, text) in texts {
        write_file(&folder.join(name), mode, text)?;
    }
    Ok(())
}

/// Writes what a job finds in `/certs`: `client/{ca,cert,key}.pem`. Any user of the job may read them.
pub(super) fn write_client(folder: &Path, keys: &Keys) -> Result<(), EngineError> {
    let client = folder.join("client");
    make_dir(folder, 0o755)?;
    make_dir(&client, 0o755)?;
    for (name, text) in [("ca.pem", &keys.ca), ("cert.pem", &keys.client.0), ("key.pem", &keys.client.1)] {
        write_file(&client.join(name), 0o644, text)?;
    }
    Ok(())
}

/// The node's authorities and those of the configuration, in one text.
fn authorities(extra: &Path) -> Result<String, EngineError> {
    let mut text = fs::read_to_string("/etc/ssl/certs/ca-certificates.crt").unwrap_or_default();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&fs::read_to_string(extra).tried("read ca_file", extra)?);
    Ok(text)
}

/// Makes a folder, whatever the process's umask.
pub(super) fn make_dir(path: &Path, mode: u32) -> Result<(), EngineError> {
    DirBuilder::new().recursive(true).mode(mode).create(path).tried("make", path)?;
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).tried("open up", path)
}

/// Writes a file, whatever the process's umask.
pub(super) fn write_file(path: &Path, mode: u32, text: &str) -> Result<(), EngineError> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path).tried("write", path)?;
    file.write_all(text.as_bytes()).tried("write", path)?;
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode)).tried("open up", path)
}
